"""The queue's tasks, thin: each loads what it needs and calls one function."""

import asyncio
import logging
import sys
import uuid
from datetime import UTC, datetime

import procrastinate

from core.connections import Connections
from core.errors import MillraceError
from core.job_queue import QUEUES
from core.reconciliation import reconcile
from jobs.ingesting import PULLS_CRON, WATCH_CRON, run_pull, schedule_pulls, watch_folder
from jobs.process import run_child
from jobs.recovery import recover_trainings
from jobs.schedule import CHECK_CRON, RECONCILE_CRON, request_checks
from jobs.training import PROJECT_FOLDER, build_environment, carry_out
from jobs.upkeep import KEEP_CRON, keep_partitions
from workloads.catalogue import get_workload

logger = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 1800.0


def add_tasks(app: procrastinate.App, connections: Connections) -> None:
    """Register the platform's tasks and their schedule with the queue's application."""

    @app.task(name="train", queue=QUEUES["train"])
    async def train(training_id: str) -> None:
        await carry_out(connections, uuid.UUID(training_id))

    @app.task(name="check", queue=QUEUES["check"])
    async def check(model: str) -> None:
        # Evidently is half a gigabyte: it lives in a process that ends.
        code = await run_child(
            [sys.executable, "-m", "jobs.project", "check", get_workload(model).name],
            build_environment(connections),
            folder=PROJECT_FOLDER,
            log_path=connections.settings.logs_folder / "checks.log",
            timeout_s=_CHECK_TIMEOUT_S,
        )
        if code != 0:
            logger.error("check failed", extra={"model": model, "code": code})

    @app.periodic(cron=RECONCILE_CRON)
    @app.task(name="reconcile", queue=QUEUES["reconcile"], queueing_lock="reconcile", pass_context=False)
    async def reconcile_all(timestamp: int) -> None:
        await asyncio.to_thread(_reconcile, connections)

    @app.periodic(cron=CHECK_CRON)
    @app.task(name="schedule_checks", queue=QUEUES["reconcile"], queueing_lock="schedule_checks")
    async def schedule_checks(timestamp: int) -> None:
        await asyncio.to_thread(request_checks, connections)

    @app.periodic(cron=KEEP_CRON)
    @app.task(name="keep_partitions", queue=QUEUES["reconcile"], queueing_lock="keep_partitions")
    async def keep_all_partitions(timestamp: int) -> None:
        await asyncio.to_thread(keep_partitions, connections)

    add_ingestion(app, connections)


def add_ingestion(app: procrastinate.App, connections: Connections) -> None:
    """Register what brings rows in by itself, where a setting turns it on."""

    @app.task(name="pull", queue=QUEUES["pull"])
    async def pull(model: str, source: str, pull_id: str) -> None:
        await asyncio.to_thread(run_pull, connections, model, source, uuid.UUID(pull_id))

    if connections.settings.pulled_models:

        @app.periodic(cron=PULLS_CRON)
        @app.task(name="schedule_pulls", queue=QUEUES["reconcile"], queueing_lock="schedule_pulls")
        async def schedule_all_pulls(timestamp: int) -> None:
            await asyncio.to_thread(schedule_pulls, connections, datetime.now(UTC))

    if connections.settings.watch_folder is not None:

        @app.periodic(cron=WATCH_CRON)
        @app.task(name="watch", queue=QUEUES["watch"], queueing_lock="watch")
        async def watch(timestamp: int) -> None:
            await asyncio.to_thread(watch_folder, connections)


def _reconcile(connections: Connections) -> None:
    try:
        recover_trainings(connections)
        reconcile(connections.engine, connections.registry)
    except MillraceError as error:
        logger.warning("reconciling waits", extra={"reason": error.sentence})
