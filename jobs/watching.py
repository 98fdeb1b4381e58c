"""A job's child processes under watch: their log is kept, limits hold, and a job that is taken away is stopped."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.connections import Connections
from core.job_errors import MemoryLimitPassed, TimeLimitPassed
from core.job_lines import append_lines
from core.masking import build_masker
from jobs.log_reading import LogReader
from jobs.process import run_child

logger = logging.getLogger(__name__)

DATABASE_FAULTS = (SQLAlchemyError, psycopg.Error)

_TICK_S = 0.5
_MEMORY_SETTING = "MILLRACE_JOB_MEMORY_MAX_BYTES"


class JobTakenAway(Exception):
    """The job was cancelled, or another worker has taken it over: nothing more is to be done for it here."""


@dataclass(frozen=True)
class WatchedJob:
    """The attempt that the processes work for. `is_owned` asks the database whether it is still to be carried out."""

    id: uuid.UUID
    attempt: int
    is_owned: Callable[[Connection], bool]
    timeout_s: float
    timeout_setting: str
    memory_max_bytes: int | None


async def run_watched(
    connections: Connections,
    job: WatchedJob,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    log_path: Path,
) -> int:
    """Run the command as `run_child` does, for the job; returns its exit code.

    Its log reaches the database within about a second. Raises TimeLimitPassed, MemoryLimitPassed and JobTakenAway
    when the command and all its descendants are gone. While the database is away the command is left to find that out
    itself.
    """
    masker = build_masker(connections.settings, connections.database_url)
    report = _Report(connections, job, LogReader(log_path, masker))
    started_s = time.monotonic()

    async def watch(pid: int) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            await _check_memory(pid, job.memory_max_bytes)
            await asyncio.to_thread(report.keep_lines)
            if not await asyncio.to_thread(report.is_owned):
                raise JobTakenAway

    try:
        return await run_child(
            command, environment, folder=folder, log_path=log_path, timeout_s=job.timeout_s, watch=watch
        )
    except TimeoutError as error:
        raise TimeLimitPassed(time.monotonic() - started_s, job.timeout_s, job.timeout_setting) from error
    finally:
        await asyncio.to_thread(report.keep_lines, is_ended=True)


async def watch_memory(pid: int, max_bytes: int | None) -> None:
    """Raise MemoryLimitPassed when the process and its descendants hold more; ends by being cancelled otherwise."""
    while True:
        await asyncio.sleep(_TICK_S)
        await _check_memory(pid, max_bytes)


async def _check_memory(pid: int, max_bytes: int | None) -> None:
    if max_bytes is None:
        return
    used = await asyncio.to_thread(measure_memory, pid)
    if used > max_bytes:
        raise MemoryLimitPassed(used, max_bytes, _MEMORY_SETTING)


def measure_memory(pid: int) -> int:
    """Resident memory in bytes of the process and all its descendants; pages that they share count for each."""
    used = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                used += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return used
    return used


class _Report:
    """What the database is told and asked while the processes run."""

    def __init__(self, connections: Connections, job: WatchedJob, log: LogReader) -> None:
        self._connections = connections
        self._job = job
        self._log = log
        # A call that the event loop gave up still runs in its thread.
        self._lock = threading.Lock()

    def is_owned(self) -> bool:
        """Whether the job is still this attempt's, as far as the database can say."""
        try:
            with self._connections.engine.connect() as connection:
                return self._job.is_owned(connection)
        except DATABASE_FAULTS as error:
            logger.warning("the database does not say whether the job goes on", extra={"reason": str(error)})
            return True

    def keep_lines(self, *, is_ended: bool = False) -> None:
        """Keep what was logged since the last time."""
        with self._lock:
            lines = self._log.read(is_ended=is_ended)
            if not lines:
                return
            try:
                with self._connections.engine.begin() as connection:
                    append_lines(connection, self._job.id, self._job.attempt, lines)
            except DATABASE_FAULTS as error:
                # They stay in the file, and are kept with the next ones.
                logger.warning("log lines wait", extra={"lines": len(lines), "reason": str(error)})
            else:
                self._log.accept()
