"""The worker: runs jobs, the schedule and the reconciler."""

import asyncio
import logging
import signal

import procrastinate

from core.connections import Connections, open_connections
from core.database import hide_password
from core.errors import DatabaseUnavailable, Unavailable
from core.job_queue import QUEUES, build_queue_app
from core.settings import Settings
from jobs.retraining import load_schedules
from jobs.schedule import request_startup_trainings
from jobs.tasks import add_tasks

logger = logging.getLogger(__name__)

_STARTUP_RETRY_S = 5.0
_STOP_S = 8.0
_ENDED_IN_PEACE = ("reconciling", "housekeeping", "upkeep")


def run_worker(settings: Settings, database_url: str) -> None:
    """Work until SIGTERM or SIGINT.

    Trainings run one at a time, in children; checks and housekeeping beside them. A training that is interrupted by
    the end of the worker is taken over by the next one. Raises SettingsRejected for schedules that are none.
    """
    load_schedules(settings)
    with open_connections(settings, database_url) as connections:
        app = build_queue_app(database_url)
        add_tasks(app, connections)
        asyncio.run(_work(app, connections))
    logger.info("worker stopped")


async def _work(app: procrastinate.App, connections: Connections) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with app.open_async():
        tasks = [
            asyncio.create_task(_run_queues(app, connections, "trainings", [QUEUES["train"]], 1)),
            asyncio.create_task(_run_queues(app, connections, "checks", [QUEUES["check"]], 1)),
            # Pages take their time; the next round does not wait for them.
            asyncio.create_task(_run_queues(app, connections, "reports", [QUEUES["report"]], 1)),
            asyncio.create_task(_run_queues(app, connections, "reconciling", [QUEUES["reconcile"]], 1)),
            asyncio.create_task(_run_queues(app, connections, "housekeeping", [QUEUES["look"]], 2)),
            asyncio.create_task(_run_queues(app, connections, "upkeep", [QUEUES["keep"]], 2)),
            # The folder and a pull at the same time; neither waits for the other.
            asyncio.create_task(_run_queues(app, connections, "ingestion", [QUEUES["pull"]], 2)),
            asyncio.create_task(stopped.wait()),
        ]
        if connections.settings.auto_train_on_startup:
            tasks.append(asyncio.create_task(_train_on_startup(connections, stopped)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        if not stopped.is_set():
            raise DatabaseUnavailable(hide_password(connections.database_url), "the queue lost its connection")


async def _run_queues(
    app: procrastinate.App, connections: Connections, name: str, queues: list[str], concurrency: int
) -> None:
    timeout_s = connections.settings.worker_timeout_s
    await app.run_worker_async(
        queues=queues,
        name=name,
        concurrency=concurrency,
        install_signal_handlers=False,
        update_heartbeat_interval=timeout_s / 3,
        stalled_worker_timeout=timeout_s,
        fetch_job_polling_interval=2.0,
        # What matters of a job is kept in tables of our own.
        delete_jobs="successful",
        shutdown_graceful_timeout=_STOP_S if name in _ENDED_IN_PEACE else 0.1,
    )


async def _train_on_startup(connections: Connections, stopped: asyncio.Event) -> None:
    """Request the first trainings once MLflow answers; ends with the worker, so that a fault of its own ends both."""
    while True:
        try:
            requested = await asyncio.to_thread(request_startup_trainings, connections)
        except Unavailable as error:
            logger.warning("training at start-up waits", extra={"reason": error.sentence})
            await asyncio.sleep(_STARTUP_RETRY_S)
        else:
            logger.info("trainings at start-up", extra={"requested": requested})
            await stopped.wait()
            return
