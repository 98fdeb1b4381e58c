"""Trainings by the clock: one for each due time, however many look and wherever clocks jump."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from core.connections import Connections, open_connections
from core.errors import SettingsRejected
from core.settings import load_settings
from core.trainings import Training, fail_training, load_trainings, start_attempt
from ingestion.importing import import_file
from jobs.retraining import load_schedules, schedule_trainings
from jobs.startup import declare_workloads
from jobs.worker import run_worker
from tests.conftest import find_free_port
from tests.jobs.requesting import change_settings, request
from workloads.catalogue import get_workload
from workloads.declaration import Schedule

_NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
_DAY = timedelta(days=1)


@pytest.fixture
def connections(migrated_database_url: str, tmp_path: Path) -> Iterator[Connections]:
    """A database of the test's own with one rating; no tracking server answers."""
    settings = load_settings(home=tmp_path, tracking_uri=f"http://127.0.0.1:{find_free_port()}")
    with open_connections(settings, migrated_database_url) as opened:
        declare_workloads(opened)
        _add_rating(opened)
        yield opened


def _add_rating(connections: Connections) -> None:
    path = connections.settings.home / "ratings.csv"
    path.write_text("user_id,book_id,rating\n1,2,5\n")
    import_file(connections.engine, get_workload("books").build_contract(), path, name="ratings.csv", actor="tests")


def _load(connections: Connections) -> list[Training]:
    with connections.engine.connect() as connection:
        return load_trainings(connection)


def _end(connections: Connections) -> None:
    for training in _load(connections):
        if training.is_open:
            with connections.engine.begin() as connection:
                fail_training(connection, training.id, start_attempt(connection, training.id).attempt, "enough")


def test_books_are_trained_daily_at_midnight_utc(connections: Connections) -> None:
    assert load_schedules(connections.settings) == {"books": Schedule("0 0 * * *", "UTC")}
    schedule_trainings(connections, _NOON)
    assert _load(connections) == []
    assert schedule_trainings(connections, datetime(2026, 3, 28, 23, 59, 59, tzinfo=UTC)) == []
    assert schedule_trainings(connections, datetime(2026, 3, 29, tzinfo=UTC)) == ["books"]
    (training,) = _load(connections)
    assert (training.model, training.cause, training.actor, training.state) == (
        "books",
        "schedule",
        "schedule",
        "queued",
    )
    with connections.engine.connect() as connection:
        jobs = connection.execute(text("SELECT task_name, args->>'training_id' FROM procrastinate_jobs")).all()
        noted = connection.execute(text("SELECT due_at, training_id FROM due_trainings ORDER BY due_at")).all()
    assert [tuple(job) for job in jobs] == [("train", str(training.id))]
    assert [tuple(row) for row in noted] == [
        (datetime(2026, 3, 28, tzinfo=UTC), None),
        (datetime(2026, 3, 29, tzinfo=UTC), training.id),
    ]


def test_many_workers_request_one_training_for_a_due_time(connections: Connections) -> None:
    schedule_trainings(connections, _NOON)
    with ThreadPoolExecutor(8) as pool:
        for requested in pool.map(lambda _: schedule_trainings(connections, _NOON + _DAY), range(16)):
            assert requested in ([], ["books"])
    _end(connections)
    # Its training has ended, the due time has not come again.
    assert schedule_trainings(connections, _NOON + _DAY) == []
    assert len(_load(connections)) == 1


def test_clock_that_jumps_forward_makes_up_for_the_last_time_once(connections: Connections) -> None:
    schedule_trainings(connections, _NOON)
    assert schedule_trainings(connections, _NOON + 5 * _DAY) == ["books"]
    _end(connections)
    assert schedule_trainings(connections, _NOON + 5 * _DAY + timedelta(minutes=1)) == []
    assert len(_load(connections)) == 1


def test_clock_that_jumps_back_trains_no_second_time_and_goes_on(connections: Connections) -> None:
    midnight = datetime(2026, 3, 29, tzinfo=UTC)
    schedule_trainings(connections, _NOON)
    assert schedule_trainings(connections, midnight) == ["books"]
    _end(connections)
    for moment in (midnight - timedelta(minutes=2), midnight, midnight + timedelta(hours=1)):
        assert schedule_trainings(connections, moment) == []
    # A year ahead by mistake, and back: the schedule is not silent for a year.
    assert schedule_trainings(connections, midnight + 365 * _DAY) == ["books"]
    _end(connections)
    assert schedule_trainings(connections, midnight + timedelta(hours=2)) == []
    assert schedule_trainings(connections, midnight + _DAY) == ["books"]


def test_schedule_that_changes_has_missed_nothing(connections: Connections) -> None:
    schedule_trainings(connections, _NOON)
    changed = change_settings(connections, schedules="books=0 6 * * * Europe/Berlin")
    assert schedule_trainings(changed, _NOON) == []
    assert schedule_trainings(changed, _NOON + timedelta(hours=12)) == []
    # Six in the morning of the day on which Berlin's clocks are put forward.
    assert schedule_trainings(changed, datetime(2026, 3, 29, 3, 59, tzinfo=UTC)) == []
    assert schedule_trainings(changed, datetime(2026, 3, 29, 4, tzinfo=UTC)) == ["books"]


def test_due_time_while_one_is_open_is_answered_with_it(connections: Connections) -> None:
    schedule_trainings(connections, _NOON)
    opened = request(connections, "books")
    assert schedule_trainings(connections, _NOON + _DAY) == []
    with connections.engine.connect() as connection:
        noted = connection.scalar(text("SELECT training_id FROM due_trainings ORDER BY due_at DESC LIMIT 1"))
    assert noted == opened.id
    _end(connections)
    assert schedule_trainings(connections, _NOON + _DAY) == []


def test_due_time_without_rows_trains_nothing(connections: Connections) -> None:
    with connections.engine.begin() as connection:
        connection.execute(text("DELETE FROM observations_books"))
    schedule_trainings(connections, _NOON)
    assert schedule_trainings(connections, _NOON + _DAY) == []
    assert _load(connections) == []


def test_setting_turns_schedules_off_and_on(connections: Connections) -> None:
    changed = change_settings(connections, schedules=" books = off ; prices=*/5 1-3 * * mon ")
    assert load_schedules(changed.settings) == {"prices": Schedule("*/5 1-3 * * mon", "UTC")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("books", "is none of `model=0 3"),
        ("books=0 0 * *", "is none of"),
        ("books=0 0 * * * Mars/Olympus", "'Mars/Olympus' is no time zone"),
        ("books=0 0 * * * ../../etc/passwd", "is no time zone"),
        ("books=off; books=off", "'books' is there twice"),
        ("Books=off", "is none of"),
    ],
)
def test_setting_that_cannot_be_read_is_refused(given: str, said: str) -> None:
    with pytest.raises(SettingsRejected, match=said.replace("*", r"\*")):
        load_settings(schedules=given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothing=off", "there is no workload 'nothing'"),
        ("books=61 0 * * *", "MILLRACE_SCHEDULES is refused"),
        ("books=0 0 30 2 *", "MILLRACE_SCHEDULES is refused"),
    ],
)
def test_setting_that_names_no_time_or_model_is_refused(given: str, said: str) -> None:
    with pytest.raises(SettingsRejected, match=said):
        load_schedules(load_settings(schedules=given))


def test_worker_does_not_start_on_schedules_that_are_none() -> None:
    with pytest.raises(SettingsRejected, match="there is no workload 'nothing'"):
        run_worker(load_settings(schedules="nothing=off"), "postgresql://nobody@127.0.0.1:1/nowhere")
