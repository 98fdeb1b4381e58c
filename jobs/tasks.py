"""The queue's tasks, thin: each loads what it needs and calls one function."""

import asyncio
import logging
import sys
import uuid
from datetime import UTC, datetime
from functools import partial

import procrastinate

from core.connections import Connections
from core.errors import MillraceError
from core.job_errors import MemoryLimitPassed
from core.job_queue import QUEUES
from core.reconciliation import reconcile
from jobs.alerting import ALERT_CRON, deliver_alerts
from jobs.check_children import carry_out_check
from jobs.checking import fail_report, read_since, run_round
from jobs.clean_up import CLEAN_UP_CRON, clean_up
from jobs.ingesting import PULLS_CRON, WATCH_CRON, run_pull, schedule_pulls, watch_folder
from jobs.performance import COMPLETE_CRON, PERFORMANCE_CRON, check_all, complete_all
from jobs.probation import watch_probations
from jobs.process import run_child
from jobs.recovery import recover_jobs
from jobs.retraining import SCHEDULES_CRON, schedule_trainings
from jobs.schedule import CHECK_CRON, PROBATION_CRON, RECONCILE_CRON
from jobs.training import PROJECT_FOLDER, build_environment, carry_out
from jobs.upkeep import KEEP_CRON, keep_partitions
from jobs.watching import watch_memory
from workloads.catalogue import get_workload

logger = logging.getLogger(__name__)


def add_tasks(app: procrastinate.App, connections: Connections) -> None:
    """Register the platform's tasks and their schedule with the queue's application."""

    @app.task(name="train", queue=QUEUES["train"])
    async def train(training_id: str) -> None:
        await carry_out(connections, uuid.UUID(training_id))

    @app.task(name="check", queue=QUEUES["check"])
    async def check(check_id: str) -> None:
        await carry_out_check(connections, uuid.UUID(check_id))

    @app.task(name="report", queue=QUEUES["report"])
    async def report(model: str, finding_id: str) -> None:
        reason = await _run_entry(connections, "report", get_workload(model).name, "--finding", finding_id)
        if reason is not None:
            await asyncio.to_thread(fail_report, connections, model, uuid.UUID(finding_id), reason)

    @app.periodic(cron=CHECK_CRON)
    @app.task(name="check_all", queue=QUEUES["check"], queueing_lock="check_all", pass_context=False)
    async def check_every_model(timestamp: int) -> None:
        await asyncio.to_thread(run_round, connections, f"round {timestamp}")

    @app.periodic(cron=RECONCILE_CRON)
    @app.task(name="reconcile", queue=QUEUES["reconcile"], queueing_lock="reconcile", pass_context=False)
    async def reconcile_all(timestamp: int) -> None:
        await asyncio.to_thread(_reconcile, connections)

    @app.periodic(cron=PROBATION_CRON)
    @app.task(name="watch_probations", queue=QUEUES["look"], queueing_lock="watch_probations")
    async def watch_all_probations(timestamp: int) -> None:
        await asyncio.to_thread(watch_probations, connections)

    @app.periodic(cron=KEEP_CRON)
    @app.task(name="keep_partitions", queue=QUEUES["keep"], queueing_lock="keep_partitions")
    async def keep_all_partitions(timestamp: int) -> None:
        await asyncio.to_thread(keep_partitions, connections)

    @app.periodic(cron=ALERT_CRON)
    @app.task(name="deliver_alerts", queue=QUEUES["look"], queueing_lock="deliver_alerts")
    async def deliver_all_alerts(timestamp: int) -> None:
        await asyncio.to_thread(deliver_alerts, connections)

    @app.periodic(cron=CLEAN_UP_CRON)
    @app.task(name="clean_up", queue=QUEUES["keep"], queueing_lock="clean_up")
    async def clean_up_all(timestamp: int) -> None:
        await asyncio.to_thread(_clean_up, connections)

    @app.periodic(cron=COMPLETE_CRON)
    @app.task(name="complete_observations", queue=QUEUES["keep"], queueing_lock="complete_observations")
    async def complete_all_observations(timestamp: int) -> None:
        await asyncio.to_thread(complete_all, connections)

    @app.periodic(cron=PERFORMANCE_CRON)
    @app.task(name="check_performance", queue=QUEUES["keep"], queueing_lock="check_performance")
    async def check_all_performance(timestamp: int) -> None:
        await asyncio.to_thread(check_all, connections)

    @app.periodic(cron=SCHEDULES_CRON)
    @app.task(name="schedule_trainings", queue=QUEUES["look"], queueing_lock="schedule_trainings")
    async def schedule_all_trainings(timestamp: int) -> None:
        await asyncio.to_thread(schedule_trainings, connections, datetime.now(UTC))

    add_ingestion(app, connections)


async def _run_entry(connections: Connections, entry: str, *arguments: str) -> str | None:
    """Run one entry point that draws a page; why it failed, None if it did not.

    Evidently is half a gigabyte: it lives in a process that ends.
    """
    timeout_s = connections.settings.check_timeout_s
    log_path = connections.settings.logs_folder / "checks.log"
    logged_bytes = log_path.stat().st_size if log_path.exists() else 0
    try:
        code = await run_child(
            [sys.executable, "-m", "jobs.project", entry, *arguments],
            build_environment(connections),
            folder=PROJECT_FOLDER,
            log_path=log_path,
            timeout_s=timeout_s,
            watch=partial(watch_memory, max_bytes=connections.settings.job_memory_max_bytes),
        )
    except TimeoutError:
        return f"it took longer than {timeout_s:g} s"
    except MemoryLimitPassed as fault:
        return fault.sentence
    if code == 0:
        return None
    said = await asyncio.to_thread(read_since, log_path, logged_bytes)
    return f"it ended with code {code}: {said}"


def add_ingestion(app: procrastinate.App, connections: Connections) -> None:
    """Register what brings rows in by itself, where a setting turns it on."""

    @app.task(name="pull", queue=QUEUES["pull"])
    async def pull(model: str, source: str, pull_id: str) -> None:
        await asyncio.to_thread(run_pull, connections, model, source, uuid.UUID(pull_id))

    if connections.settings.pulled_models:

        @app.periodic(cron=PULLS_CRON)
        @app.task(name="schedule_pulls", queue=QUEUES["look"], queueing_lock="schedule_pulls")
        async def schedule_all_pulls(timestamp: int) -> None:
            await asyncio.to_thread(schedule_pulls, connections, datetime.now(UTC))

    if connections.settings.watch_folder is not None:

        @app.periodic(cron=WATCH_CRON)
        @app.task(name="watch", queue=QUEUES["watch"], queueing_lock="watch")
        async def watch(timestamp: int) -> None:
            await asyncio.to_thread(watch_folder, connections)


def _reconcile(connections: Connections) -> None:
    try:
        recover_jobs(connections)
        reconcile(connections.engine, connections.registry)
    except MillraceError as error:
        logger.warning("reconciling waits", extra={"reason": error.sentence})


def _clean_up(connections: Connections) -> None:
    try:
        clean_up(connections, actor="platform")
    except MillraceError as error:
        logger.warning("the clean-up waits for its next time", extra={"reason": error.sentence})
