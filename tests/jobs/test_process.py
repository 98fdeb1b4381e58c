"""Child processes of the worker, with real commands."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.process import read_tail, run_child
from tests.processes import is_running, read_pid, wait_until

REPOSITORY = Path(__file__).parent.parent.parent

# A command with a child; both write their numbers.
FAMILY = "sleep 600 & echo $! > child; echo $$ > parent; wait"
STUBBORN_CHILD = "(trap '' TERM; exec sleep 600) & echo $! > child; echo $$ > parent; wait"

WORKER = """
import asyncio, os, sys
from pathlib import Path
from jobs.process import run_child
folder = Path(sys.argv[1])
asyncio.run(run_child(["sh", "-c", sys.argv[2]], os.environ, folder=folder, log_path=folder / "log", timeout_s=600))
"""


def run(folder: Path, program: str, *, timeout_s: float = 20.0, **environment: str) -> int:
    command = ["sh", "-c", program]
    return asyncio.run(
        run_child(
            command, {**os.environ, **environment}, folder=folder, log_path=folder / "logs" / "log", timeout_s=timeout_s
        )
    )


def is_family_running(folder: Path) -> bool:
    return is_running(read_pid(folder / "child")) or is_running(read_pid(folder / "parent"))


def test_output_of_every_run_is_kept_in_the_log(tmp_path: Path) -> None:
    run(tmp_path, "echo one; echo two >&2")
    run(tmp_path, "echo three")

    assert read_tail(tmp_path / "logs" / "log") == "one\ntwo\nthree\n"


def test_command_runs_in_its_folder_with_the_environment_and_nothing_to_read(tmp_path: Path) -> None:
    run(tmp_path, 'pwd; echo "$MILLRACE_SAID $HOME"; cat', MILLRACE_SAID="hello")

    assert read_tail(tmp_path / "logs" / "log") == f"{tmp_path}\nhello {os.environ['HOME']}\n"


@pytest.mark.parametrize(("program", "code"), [("true", 0), ("exit 75", 75), ("kill -9 $$", 128 + signal.SIGKILL)])
def test_exit_code_is_the_command_s_own(tmp_path: Path, program: str, code: int) -> None:
    assert run(tmp_path, program) == code


def test_command_that_does_not_exist_ends_with_a_code_and_a_reason(tmp_path: Path) -> None:
    code = asyncio.run(
        run_child(["no-such-command"], os.environ, folder=tmp_path, log_path=tmp_path / "log", timeout_s=20)
    )

    assert code == 127
    assert read_tail(tmp_path / "log") == "no-such-command: No such file or directory\n"


def test_timeout_ends_the_command_and_its_children(tmp_path: Path) -> None:
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        run(tmp_path, FAMILY, timeout_s=1)

    assert time.monotonic() - began < 4
    wait_until(lambda: not is_family_running(tmp_path), 2)


def test_timeout_ends_a_descendant_that_ignores_being_told(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        run(tmp_path, STUBBORN_CHILD, timeout_s=1)

    wait_until(lambda: not is_family_running(tmp_path), 2)


def test_timeout_kills_a_command_that_ignores_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.process._GRACE_S", 0.3)

    with pytest.raises(TimeoutError):
        run(tmp_path, "trap '' TERM; " + FAMILY + "; wait; sleep 600", timeout_s=1)

    wait_until(lambda: not is_family_running(tmp_path), 2)


def test_cancelling_ends_the_command_and_its_children(tmp_path: Path) -> None:
    async def cancel() -> None:
        command = ["sh", "-c", FAMILY]
        task = asyncio.create_task(
            run_child(command, os.environ, folder=tmp_path, log_path=tmp_path / "log", timeout_s=600)
        )
        await asyncio.to_thread(read_pid, tmp_path / "parent")
        assert is_family_running(tmp_path)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())

    wait_until(lambda: not is_family_running(tmp_path), 2)


def test_cancelling_twice_kills_at_once(tmp_path: Path) -> None:
    async def cancel() -> None:
        command = ["sh", "-c", "trap '' TERM; " + FAMILY + "; wait; sleep 600"]
        task = asyncio.create_task(
            run_child(command, os.environ, folder=tmp_path, log_path=tmp_path / "log", timeout_s=600)
        )
        await asyncio.to_thread(read_pid, tmp_path / "parent")
        task.cancel()
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(cancel())

    assert time.monotonic() - began < 4
    wait_until(lambda: not is_family_running(tmp_path), 2)


def test_nothing_of_the_command_outlives_it(tmp_path: Path) -> None:
    """Not even a child in a session of its own, which is how MLflow starts an entry point."""
    code = run(tmp_path, "setsid sleep 600 & echo $! > child; exit 3")

    assert code == 3
    assert not is_running(read_pid(tmp_path / "child"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds a process to its parent")
def test_command_dies_when_the_worker_is_killed(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path), "echo $$ > parent; exec sleep 600"], cwd=REPOSITORY
    )
    pid = read_pid(tmp_path / "parent")
    assert is_running(pid)

    worker.kill()
    worker.wait()

    wait_until(lambda: not is_running(pid))


def test_tail_is_the_end_of_the_log_and_may_begin_inside_a_letter(tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    log_path.write_text("beginning é end", encoding="utf-8")

    assert read_tail(log_path, max_bytes=5) == "� end"
    assert read_tail(log_path, max_bytes=6) == "é end"
    assert read_tail(log_path, max_bytes=1000) == "beginning é end"


def test_tail_of_no_log_is_empty(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "none") == ""
