"""The queue's tasks, thin: each loads what it needs and calls one function."""

import asyncio
import logging
import sys
import uuid

import procrastinate

from core.connections import Connections
from core.errors import MillraceError
from core.job_queue import QUEUES
from core.reconciliation import reconcile
from jobs.process import run_child
from jobs.recovery import recover_trainings
from jobs.schedule import CHECK_CRON, RECONCILE_CRON, request_checks
from jobs.training import PROJECT_FOLDER, build_environment, carry_out
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


def _reconcile(connections: Connections) -> None:
    try:
        recover_trainings(connections)
        reconcile(connections.engine, connections.registry)
    except MillraceError as error:
        logger.warning("reconciling waits", extra={"reason": error.sentence})
