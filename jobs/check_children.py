"""Checks as jobs: carried out in a child process, to a finding or to the reason why there is none."""

import asyncio
import logging
import sys
import uuid

from core.checks import Check, fail_check, is_check_owned, start_check
from core.connections import Connections
from core.errors import WorkloadNotFound
from core.job_errors import MemoryLimitPassed, TimeLimitPassed
from core.job_lines import append_lines
from core.masking import build_masker
from jobs.checking import note_failed_check
from jobs.process import read_tail
from jobs.training import PROJECT_FOLDER, build_environment
from jobs.watching import JobTakenAway, WatchedJob, run_watched
from workloads.catalogue import get_workload

logger = logging.getLogger(__name__)


async def carry_out_check(connections: Connections, check_id: uuid.UUID) -> None:
    """Begin the check, unless it has ended meanwhile, and see that it ends.

    Evidently is half a gigabyte: it lives in a process that ends. That process stores the finding and ends the check.
    """
    check = await asyncio.to_thread(_begin, connections, check_id)
    if check is None:
        return
    try:
        error = await _run(connections, check)
    except JobTakenAway:
        return
    except (TimeLimitPassed, MemoryLimitPassed, WorkloadNotFound) as fault:
        error = fault.sentence
    await asyncio.to_thread(_fail_if_open, connections, check, error)


def _begin(connections: Connections, check_id: uuid.UUID) -> Check | None:
    with connections.engine.begin() as connection:
        check = start_check(connection, check_id)
        if check is not None:
            append_lines(connection, check.id, check.attempt, [f"attempt {check.attempt}"])
    return check


async def _run(connections: Connections, check: Check) -> str:
    """What to say where the child ends without having ended the check."""
    settings, model = connections.settings, get_workload(check.model).name
    log_path = settings.logs_folder / "checks" / f"{check.id}.{check.attempt}.log"
    job = WatchedJob(
        id=check.id,
        attempt=check.attempt,
        is_owned=lambda connection: is_check_owned(connection, check),
        timeout_s=settings.check_timeout_s,
        timeout_setting="MILLRACE_CHECK_TIMEOUT_S",
        memory_max_bytes=settings.job_memory_max_bytes,
    )
    code = await run_watched(
        connections,
        job,
        [sys.executable, "-m", "jobs.project", "check", model, f"--job={check.id}"],
        build_environment(connections),
        folder=PROJECT_FOLDER,
        log_path=log_path,
    )
    last_words = build_masker(settings, connections.database_url).mask(read_tail(log_path))
    return f"it ended with code {code}: {last_words}"


def _fail_if_open(connections: Connections, check: Check, error: str) -> None:
    with connections.engine.begin() as connection:
        if not is_check_owned(connection, check):
            return
        fail_check(connection, check.id, error)
    note_failed_check(connections, check.model, f"job {check.id}", error)
    logger.error("check failed", extra={"model": check.model, "check": str(check.id), "reason": error})
