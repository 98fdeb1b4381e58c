"""Rows that come by themselves: the watched folder, and sources that are pulled by schedule."""

import logging
from datetime import datetime
from uuid import UUID

from core.connections import Connections
from core.data_errors import PulledSourceNotFound
from core.errors import MillraceError
from core.job_queue import enqueue
from ingestion.folder import take_files
from ingestion.pulling import fail_pull, note_job, pull_source, request_pull
from jobs.clock import find_due
from workloads.catalogue import get_workload, load_catalogue
from workloads.declaration import PulledSource, Workload

logger = logging.getLogger(__name__)

WATCH_CRON = "* * * * * */10"
"""Every ten seconds."""

PULLS_CRON = "* * * * *"
"""How often the schedules of sources are looked at: every minute, the finest that they can name."""


def watch_folder(connections: Connections) -> None:
    """Import the files that are complete in the watched folder; what it cannot do now waits for the next time."""
    root = connections.settings.watch_folder
    if root is None:
        return
    contracts = {name: workload.build_contract() for name, workload in load_catalogue().items()}
    try:
        for taken in take_files(connections.engine, contracts, root, max_bytes=connections.settings.max_upload_bytes):
            outcome = {"model": taken.model, "file": taken.path.name, "reason": taken.reason}
            logger.log(logging.INFO if taken.is_imported else logging.WARNING, "file taken", extra=outcome)
    except MillraceError as error:
        logger.warning("watching waits", extra={"reason": error.sentence})


def schedule_pulls(connections: Connections, now: datetime) -> None:
    """Enqueue each source whose time has come, once for that time however many workers look.

    A time that passed while no worker ran is made up for once.
    """
    for model in connections.settings.pulled_models:
        try:
            workload = get_workload(model)
        except MillraceError as error:
            logger.warning("nothing is pulled", extra={"reason": error.sentence})
            continue
        for source in workload.pulled:
            with connections.engine.begin() as connection:
                pull_id = request_pull(connection, model, source, find_due(source.cron, source.time_zone, now))
                if pull_id is not None:
                    job_id = enqueue(connection, "pull", model=model, source=source.name, pull_id=str(pull_id))
                    note_job(connection, pull_id, job_id)


def run_pull(connections: Connections, model: str, source: str, pull_id: UUID) -> None:
    """Carry a scheduled pull out; one that fails keeps its reason and is tried again at its next time."""
    try:
        workload = get_workload(model)
        declared = get_pulled_source(workload, source)
    except MillraceError as error:
        with connections.engine.begin() as connection:
            fail_pull(connection, pull_id, error.sentence)
        logger.warning("pull failed", extra={"model": model, "source": source, "reason": error.sentence})
        return
    try:
        pull = pull_source(connections.engine, connections.settings, workload.build_contract(), declared, pull_id)
    except MillraceError as error:
        logger.warning("pull failed", extra={"model": model, "source": source, "reason": error.sentence})
        return
    rows = None if pull.result is None else pull.result.rows_new
    logger.info("pulled", extra={"model": model, "source": source, "rows_new": rows})


def get_pulled_source(workload: Workload, name: str | None) -> PulledSource:
    """The workload's source of that name, or its only one; raises PulledSourceNotFound."""
    found = [source for source in workload.pulled if name in (None, source.name)]
    if len(found) != 1:
        raise PulledSourceNotFound(workload.name, name, [source.name for source in workload.pulled])
    return found[0]
