"""Child processes of the worker: started, logged to a file, and ended with it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from core import guard
from core.supervision import build_guarded_command

_GRACE_S = 5.0

Watch = Callable[[int], Awaitable[None]]
"""Told the number of the process that all others of the command descend from; what it raises ends the command."""


async def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    log_path: Path,
    timeout_s: float,
    watch: Watch | None = None,
) -> int:
    """Run a command in `folder`, with that environment and nothing beside it, until it ends; return its exit code.

    The code is 128 + the number of the signal that killed it, and 127 where there is no such command.

    What it prints is appended to `log_path`. It runs under a guard, so that nothing of it outlives this process; it is
    ended after `timeout_s` seconds (TimeoutError), when `watch` raises (that error is raised), and when the caller is
    cancelled.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *build_guarded_command(command),
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    waiting = asyncio.ensure_future(process.wait())
    watching = asyncio.ensure_future(watch(process.pid)) if watch is not None else None
    tasks = [task for task in (waiting, watching) if task is not None]
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if watching is not None and watching.done():
                await watching
            return await waiting
    finally:
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            if process.returncode is None:
                await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_S)
    finally:
        # Also when the caller is cancelled again meanwhile.
        if process.returncode is None:
            process.send_signal(guard.KILL_ALL)
            await process.wait()


def read_tail(log_path: Path, max_bytes: int = 4_000) -> str:
    """The last lines of a log, at most `max_bytes` of it; empty where there is none."""
    if not log_path.exists():
        return ""
    with log_path.open("rb") as log:
        log.seek(max(0, log_path.stat().st_size - max_bytes))
        return log.read().decode("utf-8", errors="replace")
