"""The job queue: Procrastinate on the platform's own PostgreSQL.

A job is enqueued in the transaction that stores its cause: either both are there or neither is.
Source: Procrastinate's "Use an external connection" (`Task.configure(connection=…)`) and its how-to on retrying
stalled jobs by worker heartbeat.
"""

import os
import socket
from collections.abc import Mapping
from typing import Literal

import procrastinate
from procrastinate.schema import SchemaManager
from procrastinate.types import JSONValue
from sqlalchemy import Connection, text

from core.database import build_libpq_url

TaskName = Literal["train", "check", "report", "reconcile", "look", "keep", "watch", "pull"]

QUEUES: Mapping[TaskName, str] = {
    "train": "trainings",
    "check": "checks",
    "report": "reports",
    "reconcile": "reconciling",
    "look": "housekeeping",
    "keep": "upkeep",
    "watch": "ingestion",
    "pull": "ingestion",
}
"""The queue of each task; a worker runs several at once, but one training at a time.

What brings lost jobs back (reconcile) waits for nothing else, and what looks every few seconds or minutes (look) not
for what may take an hour (keep).
"""


def build_queue_app(url: str) -> procrastinate.App:
    """The queue's application, as the worker runs it; tasks are added by `jobs.tasks`."""
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=build_libpq_url(url)))


_sender = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())


def enqueue(connection: Connection, task: TaskName, **arguments: JSONValue) -> int:
    """Enqueue a job in the caller's transaction; returns its number in the queue."""
    deferrer = _sender.configure_task(name=task, queue=QUEUES[task], connection=connection.connection.driver_connection)
    return deferrer.defer(**arguments)


def drop_queued(connection: Connection, number: int) -> bool:
    """Take a job out of the queue in the caller's transaction; whether no worker had begun it."""
    dropped = connection.execute(
        text("DELETE FROM procrastinate_jobs WHERE id = :number AND status = 'todo' RETURNING id"), {"number": number}
    )
    return dropped.first() is not None


def name_worker() -> str:
    """This process, as the jobs that it carries out name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def load_queue_schema() -> str:
    """The SQL that creates the queue's tables, as the installed Procrastinate brings it."""
    return SchemaManager.get_schema()


def count_live_workers(connection: Connection, timeout_s: float) -> int:
    """How many workers gave a heartbeat within `timeout_s` seconds."""
    statement = text(
        "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => :timeout)"
    )
    return int(connection.execute(statement, {"timeout": timeout_s}).scalar_one())
