"""Rows that come by themselves: schedules, and a real worker on a watched folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from core.connections import Connections, open_connections
from core.data_errors import PulledSourceNotFound
from core.settings import load_settings
from ingestion.pulling import load_pulls
from ingestion.store import count_observations
from jobs.clock import find_due
from jobs.ingesting import get_pulled_source, run_pull, schedule_pulls, watch_folder
from jobs.startup import declare_workloads
from tests.conftest import find_free_port
from workloads.catalogue import get_workload, load_catalogue
from workloads.declaration import PulledSource
from workloads.prices.sample import write_sample

REPOSITORY = Path(__file__).parents[2]
_NOW = datetime(2026, 3, 29, 12, 30, tzinfo=UTC)


@pytest.fixture
def connections(migrated_database_url: str, tmp_path: Path) -> Iterator[Connections]:
    """A database of the test's own; no tracking server answers."""
    settings = load_settings(
        home=tmp_path,
        pulls="prices",
        watch_folder=str(tmp_path / "inbox"),
        tracking_uri=f"http://127.0.0.1:{find_free_port()}",
    )
    with open_connections(settings, migrated_database_url) as opened:
        declare_workloads(opened)
        yield opened


def _change(connections: Connections, **changes: object) -> Connections:
    settings = connections.settings.model_copy(update=changes)
    return Connections(settings, connections.database_url, connections.engine)


def _count_jobs(connections: Connections) -> int:
    with connections.engine.connect() as connection:
        query = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'pull' AND queue_name = 'ingestion'"
        return connection.scalar(text(query)) or 0


@pytest.mark.parametrize(
    ("cron", "zone", "now", "due"),
    [
        ("20 0 * * *", "UTC", "2026-03-29 12:30", "2026-03-29 00:20"),
        ("20 0 * * *", "UTC", "2026-03-29 00:20", "2026-03-29 00:20"),
        ("20 0 * * *", "UTC", "2026-03-29 00:19", "2026-03-28 00:20"),
        # The clocks of Berlin go forward on the 29th at 01:00 UTC: six there is five in UTC the day before.
        ("0 6 * * *", "Europe/Berlin", "2026-03-29 03:59", "2026-03-28 05:00"),
        ("0 6 * * *", "Europe/Berlin", "2026-03-29 04:00", "2026-03-29 04:00"),
        ("0 9 * * mon", "Asia/Tokyo", "2026-03-30 01:00", "2026-03-30 00:00"),
    ],
)
def test_source_is_due_at_wall_clock_time(cron: str, zone: str, now: str, due: str) -> None:
    source = PulledSource("x", "http", "http://x", cron, zone)

    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    expected = datetime.fromisoformat(due).replace(tzinfo=UTC)
    assert find_due(source.cron, source.time_zone, moment) == expected


def test_due_source_is_enqueued_once_for_its_time(connections: Connections) -> None:
    for minute in (30, 31, 32):
        schedule_pulls(connections, _NOW.replace(minute=minute))
    assert _count_jobs(connections) == 1
    schedule_pulls(connections, _NOW.replace(day=30))

    assert _count_jobs(connections) == 2
    with connections.engine.connect() as connection:
        assert [(row.source, row.state) for row in load_pulls(connection, "prices")] == [
            ("yahoo", "queued"),
            ("yahoo", "failed"),
        ]


def test_nothing_is_pulled_without_the_setting(connections: Connections) -> None:
    schedule_pulls(_change(connections, pulls=""), _NOW)
    schedule_pulls(_change(connections, pulls="unknown"), _NOW)

    assert _count_jobs(connections) == 0


def test_failed_pull_is_recorded_and_due_again(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yfinance", None)
    schedule_pulls(connections, _NOW)
    with connections.engine.connect() as connection:
        (pull,) = load_pulls(connection, "prices")

    run_pull(connections, "prices", "yahoo", pull.id)
    schedule_pulls(connections, _NOW.replace(day=30))

    with connections.engine.connect() as connection:
        later, failed = load_pulls(connection, "prices")
    assert (later.state, failed.state) == ("queued", "failed")
    assert "yfinance is not installed" in str(failed.reason)


def test_source_is_named_where_there_are_several() -> None:
    workload = get_workload("prices")

    assert get_pulled_source(workload, None) == get_pulled_source(workload, "yahoo")
    with pytest.raises(PulledSourceNotFound, match=r"no source 'other' to pull; declared are yahoo"):
        get_pulled_source(workload, "other")


@pytest.mark.parametrize("name", sorted(load_catalogue()))
def test_every_declared_source_has_a_schedule(name: str) -> None:
    sources = get_workload(name).pulled

    assert len({source.name for source in sources}) == len(sources)
    for source in sources:
        assert find_due(source.cron, source.time_zone, _NOW) <= _NOW


def test_folder_that_cannot_be_used_is_logged_and_waits(
    connections: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    root = connections.settings.watch_folder
    assert root is not None
    root.write_text("no folder")

    watch_folder(connections)

    assert "watching waits" in caplog.text


_WORKER = """
import sys
from core.settings import load_settings
from jobs.worker import run_worker

url, home, folder, tracking_uri = sys.argv[1:]
settings = load_settings(home=home, watch_folder=folder, tracking_uri=tracking_uri, worker_timeout_s=3.0)
run_worker(settings, url)
"""


@contextmanager
def _running_worker(connections: Connections) -> Iterator[subprocess.Popen[bytes]]:
    settings = connections.settings
    arguments = [connections.database_url, str(settings.home), str(settings.watch_folder), settings.tracking_address]
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, *arguments], cwd=REPOSITORY)
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(timeout=30)
        finally:
            worker.kill()


def _wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 120.0
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_worker_takes_files_and_the_next_one_goes_on_after_a_kill(connections: Connections) -> None:
    root = connections.settings.watch_folder
    assert root is not None
    folder = root / "prices"
    folder.mkdir(parents=True)
    write_sample(folder / "first.csv", rows=60)
    with _running_worker(connections) as worker:
        _wait_for_file(folder / "done" / "first.csv")
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    (folder / "second.csv").write_bytes((folder / "done" / "first.csv").read_bytes())
    with _running_worker(connections):
        _wait_for_file(folder / "done" / "second.csv")

    with connections.engine.connect() as connection:
        assert count_observations(connection, "prices") == 60
