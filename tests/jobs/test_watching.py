"""Jobs under watch, with real processes: limits, cancellation, and a log that reaches the database."""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from core.connections import Connections, open_connections
from core.job_errors import MemoryLimitPassed, TimeLimitPassed
from core.job_lines import load_last_lines
from core.settings import load_settings
from jobs.watching import JobTakenAway, WatchedJob, run_watched
from tests.processes import is_running, read_pid, wait_until

# A parent and its child in a session of its own, as MLflow's launcher has one; each takes 60 MiB.
FAMILY = """
import os, pathlib, subprocess, sys, time
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
else:
    pathlib.Path("child").write_text(f"{os.getpid()}\\n")
held = bytearray(b"x" * (60 * 2**20))
time.sleep(600)
"""


@pytest.fixture
def connections(migrated_database_url: str, tmp_path: Path) -> Iterator[Connections]:
    with open_connections(load_settings(home=tmp_path), migrated_database_url) as opened:
        yield opened


def run(
    connections: Connections,
    folder: Path,
    program: str,
    *,
    is_owned: Callable[[Connection], bool] = lambda _: True,
    timeout_s: float = 60.0,
    memory_max_bytes: int | None = None,
) -> tuple[uuid.UUID, int]:
    job = WatchedJob(uuid.uuid4(), 2, is_owned, timeout_s, "MILLRACE_TRAINING_TIMEOUT_S", memory_max_bytes)
    (folder / "program.py").write_text(program)
    command = [sys.executable, str(folder / "program.py")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return job.id, asyncio.run(
        run_watched(connections, job, command, environment, folder=folder, log_path=folder / "log")
    )


def load_log(connections: Connections, job_id: uuid.UUID) -> list[str]:
    with connections.engine.connect() as connection:
        return [line.text for line in load_last_lines(connection, job_id, 100)]


def test_what_the_processes_print_is_kept_without_the_platforms_secrets(
    connections: Connections, tmp_path: Path
) -> None:
    said = f"cannot open {connections.database_url}"
    job_id, code = run(connections, tmp_path, f"print('begun'); print({said!r}); raise SystemExit('the end')")
    log = load_log(connections, job_id)
    assert code == 1
    assert (log[0], log[-1]) == ("begun", "the end")
    assert ":***@" in log[1] and len(log) == 3
    assert str(connections.engine.url.password) not in str(log)


def test_lines_can_be_read_while_the_process_still_runs(connections: Connections, tmp_path: Path) -> None:
    job_ids: list[uuid.UUID] = []

    def has_spoken(connection: Connection) -> bool:
        with connections.engine.connect() as other:
            return not any(load_last_lines(other, job_id, 1) for job_id in job_ids)

    job = WatchedJob(uuid.uuid4(), 1, has_spoken, 60.0, "X", None)
    job_ids.append(job.id)
    command = [sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(600)"]
    with pytest.raises(JobTakenAway):
        asyncio.run(run_watched(connections, job, command, os.environ, folder=tmp_path, log_path=tmp_path / "log"))


def test_processes_that_use_too_much_memory_together_are_stopped(connections: Connections, tmp_path: Path) -> None:
    limit = 100 * 2**20
    with pytest.raises(MemoryLimitPassed, match=r"used \d+ MiB of memory: 100 MiB are allowed") as error:
        run(connections, tmp_path, FAMILY, memory_max_bytes=limit)
    assert "MILLRACE_JOB_MEMORY_MAX_BYTES" in error.value.sentence
    assert not is_running(read_pid(tmp_path / "child"))


def test_processes_within_the_memory_limit_are_left_alone(connections: Connections, tmp_path: Path) -> None:
    program = FAMILY.replace("time.sleep(600)", "time.sleep(2)")
    assert run(connections, tmp_path, program, memory_max_bytes=2**30)[1] == 0


def test_processes_that_take_too_long_are_stopped(connections: Connections, tmp_path: Path) -> None:
    with pytest.raises(TimeLimitPassed, match=r"after \d+ s: 2 s are allowed.*MILLRACE_TRAINING_TIMEOUT_S"):
        run(connections, tmp_path, FAMILY, timeout_s=2.0)
    # Under load it may not have come to begin its child.
    if (tmp_path / "child").exists():
        assert not is_running(read_pid(tmp_path / "child"))


def test_processes_of_a_job_that_is_taken_away_are_stopped(connections: Connections, tmp_path: Path) -> None:
    with pytest.raises(JobTakenAway):
        run(connections, tmp_path, FAMILY, is_owned=lambda _: not (tmp_path / "child").exists())
    wait_until(lambda: not is_running(read_pid(tmp_path / "child")), 5)


def test_job_goes_on_while_the_database_is_away_and_its_lines_are_kept_afterwards(
    connections: Connections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, began = connections.engine, time.monotonic()
    away = load_settings(home=tmp_path)

    def is_owned(_connection: Connection) -> bool:
        return True

    with open_connections(away, "postgresql://nobody:no-such-password@127.0.0.1:1/none") as other:
        # Away for the first second.
        broken = Connections(away, connections.database_url, other.engine)
        original = type(broken).__getattribute__

        def get(self: Connections, name: str) -> object:
            if name == "engine" and self is broken and time.monotonic() - began > 1.5:
                return own
            return original(self, name)

        monkeypatch.setattr(Connections, "__getattribute__", get)
        job_id, code = run(
            broken, tmp_path, "import time; print('one'); time.sleep(4); print('two')", is_owned=is_owned
        )
    assert code == 0
    assert load_log(connections, job_id) == ["one", "two"]
