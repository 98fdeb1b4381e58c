import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, text

from core.alerts import load_alerts
from core.database import create_database_engine
from core.errors import AttemptSuperseded, TrainingNotFound
from core.job_errors import TrainingEnded
from core.trainings import (
    Training,
    fail_training,
    find_open_training,
    finish_training,
    get_training,
    hold_attempt,
    load_trainings,
    record_step,
    request_training,
    start_attempt,
)


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """The session's database: these tests keep apart by models of their own."""
    return shared_engine


def request(engine: Engine, model: str, *, is_enqueued: bool = True) -> Training:
    with engine.begin() as connection:
        training, _ = request_training(connection, model, cause="hand", actor="ann", is_enqueued=is_enqueued)
        return training


def count_jobs(connection: Connection, training_id: uuid.UUID) -> int:
    statement = text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'train' AND args->>'training_id' = :id")
    return int(connection.execute(statement, {"id": str(training_id)}).scalar_one())


# --- requests ----------------------------------------------------------------------------------------------------


def test_request_stores_the_training_and_its_job(engine: Engine, model: str) -> None:
    with engine.begin() as connection:
        training, is_new = request_training(
            connection, model, cause="finding", actor="monitor", parameters={"epochs": 3}
        )
        assert is_new
    assert (training.state, training.cause, training.actor, training.attempt) == ("queued", "finding", "monitor", 0)
    assert training.parameters == {"epochs": 3}
    with engine.connect() as connection:
        assert get_training(connection, training.id) == training
        assert count_jobs(connection, training.id) == 1


def test_request_that_the_caller_carries_out_has_no_job(engine: Engine, model: str) -> None:
    training = request(engine, model, is_enqueued=False)
    with engine.connect() as connection:
        assert count_jobs(connection, training.id) == 0


def test_request_that_is_rolled_back_leaves_neither_training_nor_job(engine: Engine, model: str) -> None:
    with engine.connect() as connection:
        training, _ = request_training(connection, model, cause="hand", actor="ann")
        assert count_jobs(connection, training.id) == 1
        connection.rollback()
    with engine.connect() as connection:
        assert find_open_training(connection, model) is None
        assert count_jobs(connection, training.id) == 0
        with pytest.raises(TrainingNotFound):
            get_training(connection, training.id)


def test_twenty_requests_at_once_open_one_training_with_one_job(database_url: str, model: str) -> None:
    engine = create_database_engine(database_url, pool_size=20)
    start = threading.Barrier(20)

    def ask(number: int) -> tuple[uuid.UUID, bool]:
        with engine.begin() as connection:
            start.wait()
            training, is_new = request_training(connection, model, cause="hand", actor=f"user {number}")
            return training.id, is_new

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    assert len({training_id for training_id, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1
    with engine.connect() as connection:
        assert len(load_trainings(connection, model)) == 1
        assert count_jobs(connection, answers[0][0]) == 1
    engine.dispose()


@pytest.mark.parametrize("is_running", [False, True])
def test_request_while_one_is_open_returns_the_open_one(engine: Engine, model: str, is_running: bool) -> None:
    training = request(engine, model)
    with engine.begin() as connection:
        if is_running:
            start_attempt(connection, training.id)
        found, is_new = request_training(connection, model, cause="schedule", actor="clock")
    assert (found.id, is_new) == (training.id, False)


def test_request_after_one_has_ended_opens_another(engine: Engine, model: str) -> None:
    first = request(engine, model)
    with engine.begin() as connection:
        start_attempt(connection, first.id)
        fail_training(connection, first.id, 1, "no rows")
    second = request(engine, model)
    assert second.id != first.id
    with engine.connect() as connection:
        assert [training.id for training in load_trainings(connection, model)] == [second.id, first.id]


# --- attempts ----------------------------------------------------------------------------------------------------


def test_superseded_attempt_may_not_do_anything_more(engine: Engine, model: str) -> None:
    training = request(engine, model)
    with engine.begin() as connection:
        assert start_attempt(connection, training.id).attempt == 1
        assert start_attempt(connection, training.id).attempt == 2
    acts: list[Callable[[Connection], None]] = [
        lambda connection: hold_attempt(connection, training.id, 1),
        lambda connection: record_step(connection, training.id, 1, step="fit", progress=0.5),
        lambda connection: finish_training(connection, training.id, 1),
        lambda connection: fail_training(connection, training.id, 1, "late"),
    ]
    for act in acts:
        with engine.begin() as connection, pytest.raises(AttemptSuperseded, match=r"Attempt 1 .* by attempt 2"):
            act(connection)
    with engine.connect() as connection:
        state = get_training(connection, training.id)
    assert (state.state, state.attempt, state.step, state.error) == ("running", 2, "started", None)


def test_attempt_records_its_steps_and_ends_the_training(engine: Engine, model: str) -> None:
    training = request(engine, model)
    with engine.begin() as connection:
        start_attempt(connection, training.id)
        record_step(connection, training.id, 1, step="fit", progress=0.4, run_id="run1")
    with engine.begin() as connection:
        finish_training(connection, training.id, 1, version=3)
    with engine.connect() as connection:
        ended = get_training(connection, training.id)
        assert find_open_training(connection, model) is None
    assert (ended.state, ended.step, ended.progress, ended.run_id, ended.version) == (
        "finished",
        "finished",
        1.0,
        "run1",
        3,
    )
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert not ended.is_open


def test_training_that_fails_is_an_alert_until_one_finishes(engine: Engine, model: str) -> None:
    for _ in range(2):
        training = request(engine, model)
        with engine.begin() as connection:
            attempt = start_attempt(connection, training.id).attempt
            fail_training(connection, training.id, attempt, "the rows make no training set.")
    with engine.begin() as connection:
        (alert,) = load_alerts(connection, model)
        assert (alert.severity, alert.title, alert.times) == ("warning", "A training failed", 2)
        assert "the rows make no training set." in alert.reasons[0]
    training = request(engine, model)
    with engine.begin() as connection:
        finish_training(connection, training.id, start_attempt(connection, training.id).attempt, version=3)
    with engine.connect() as connection:
        assert load_alerts(connection, model)[0].cleared_reason == f"training {training.id} finished"


def test_training_that_fails_is_told_of_with_its_end_or_not_at_all(engine: Engine, model: str) -> None:
    training = request(engine, model)
    with engine.connect() as connection:
        fail_training(connection, training.id, start_attempt(connection, training.id).attempt, "it broke")
        # The process ends before it commits.
    with engine.connect() as connection:
        assert get_training(connection, training.id).is_open
        assert load_alerts(connection, model) == []


def test_attempt_of_a_training_that_has_ended_does_not_open_it_again(engine: Engine, model: str) -> None:
    training = request(engine, model)
    with engine.begin() as connection:
        start_attempt(connection, training.id)
        finish_training(connection, training.id, 1)
    with engine.begin() as connection:
        again = start_attempt(connection, training.id)
    assert (again.state, again.attempt) == ("finished", 1)
    with engine.begin() as connection, pytest.raises(TrainingEnded, match="is finished"):
        hold_attempt(connection, training.id, 1)


def test_unknown_training_is_named(engine: Engine) -> None:
    unknown = uuid.uuid4()
    with engine.begin() as connection:
        with pytest.raises(TrainingNotFound, match=str(unknown)):
            hold_attempt(connection, unknown, 1)
        with pytest.raises(TrainingNotFound, match=str(unknown)):
            start_attempt(connection, unknown)
