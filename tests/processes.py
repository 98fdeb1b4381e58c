"""Watching real processes: which run, and waiting for what they do."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until it is so; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def read_pid(path: Path) -> int:
    """The number that a program of a test writes to a file once it runs; waits for it."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())
