"""Jobs that lost their worker: found by heartbeat, taken over or ended; and what ended trainings left behind."""

import logging
import uuid

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import IntegrityError

from core.connections import Connections
from core.job_queue import TaskName, enqueue
from core.trainings import fail_abandoned_trainings, find_unwatched, get_training
from jobs.checking import note_failed_report
from jobs.settling import settle_training

logger = logging.getLogger(__name__)

# The job is gone or ended, or belongs to a worker that no longer gives its heartbeat.
_IS_LOST = """
    (queued.id IS NULL OR queued.status NOT IN ('todo', 'doing')
     OR (queued.status = 'doing'
         AND (worker.id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => :timeout))))
"""
_JOINED = """
    LEFT JOIN procrastinate_jobs queued ON queued.id = job.job_id
    LEFT JOIN procrastinate_workers worker ON worker.id = queued.worker_id
"""
_END_JOB = text("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = :id AND status = 'doing'")


def _find_lost(table: str) -> TextClause:
    return text(
        f"""
        SELECT job.id, job.job_id, job.model, job.attempt, to_jsonb(job) ->> 'source' AS source
        FROM {table} job {_JOINED}
        WHERE job.state IN ('queued', 'running') AND job.job_id IS NOT NULL AND {_IS_LOST}
        FOR UPDATE OF job SKIP LOCKED
        """  # noqa: S608  # names of our own
    )


_LOST_TRAININGS, _LOST_CHECKS, _LOST_PULLS = (_find_lost(table) for table in ("trainings", "checks", "pulls"))
_UNSETTLED = text(
    f"""
    SELECT job.id, job.job_id FROM trainings job {_JOINED}
    WHERE job.state NOT IN ('queued', 'running') AND job.settled_at IS NULL AND job.job_id IS NOT NULL AND {_IS_LOST}
    """  # noqa: S608  # names of our own
)
# The queue alone knows these: reports, and housekeeping. A worker that is told to stop marks them as aborted.
_LOST_OTHERS = text(
    """
    SELECT queued.id, queued.task_name, queued.args, queued.attempts
    FROM procrastinate_jobs queued LEFT JOIN procrastinate_workers worker ON worker.id = queued.worker_id
    WHERE queued.task_name NOT IN ('train', 'check', 'pull')
        AND (queued.status = 'aborted'
             OR (queued.status = 'doing'
                 AND (worker.id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => :timeout))))
    FOR UPDATE OF queued SKIP LOCKED
    """
)
_ENQUEUE_AGAIN = text(
    "UPDATE procrastinate_jobs SET status = 'todo', attempts = attempts + 1, worker_id = NULL WHERE id = :id"
)
_GIVE_UP_JOB = text("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = :id")


def recover_jobs(connections: Connections) -> None:
    """Enqueue lost jobs again, and settle trainings that ended with their worker.

    The next attempt at a training has a higher fencing number, so a late one changes nothing. A training that ran in a
    person's own process, which has ended, is marked as failed. Raises TrackingUnavailable.
    """
    with connections.engine.begin() as connection:
        _take_over_trainings(connection, connections.settings.worker_timeout_s)
        _take_over(connection, connections, "check")
        _take_over(connection, connections, "pull")
        _take_over_others(connection, connections)
    for training in fail_abandoned_trainings(connections.engine):
        logger.warning("training abandoned", extra={"training": str(training.id)})
    settle_left(connections)


def _take_over_trainings(connection: Connection, timeout_s: float) -> None:
    for row in connection.execute(_LOST_TRAININGS, {"timeout": timeout_s}).all():
        _replace_job(connection, "trainings", row.id, row.job_id, "train", {"training_id": str(row.id)})
        logger.warning("training taken over", extra={"training": str(row.id)})


def _take_over(connection: Connection, connections: Connections, kind: TaskName) -> None:
    """Enqueue what is lost of checks or pulls; one that was begun as often as is allowed has failed."""
    settings = connections.settings
    table, found, reason = ("checks", _LOST_CHECKS, "error") if kind == "check" else ("pulls", _LOST_PULLS, "reason")
    for row in connection.execute(found, {"timeout": settings.worker_timeout_s}).all():
        logger.warning("job taken over", extra={"kind": kind, "job": str(row.id)})
        if row.attempt >= settings.training_attempts:
            ended = text(f"UPDATE {table} SET state = 'failed', {reason} = :why, finished_at = now() WHERE id = :id")  # noqa: S608  # names of our own
            connection.execute(ended, {"why": f"{row.attempt} attempts lost their worker", "id": row.id})
            connection.execute(_END_JOB, {"id": row.job_id})
        elif kind == "check":
            _replace_job(connection, table, row.id, row.job_id, kind, {"check_id": str(row.id)})
        else:
            arguments = {"model": row.model, "source": row.source, "pull_id": str(row.id)}
            _replace_job(connection, table, row.id, row.job_id, kind, arguments)


def _take_over_others(connection: Connection, connections: Connections) -> None:
    """Enqueue what is lost of all other jobs; one that was begun as often as is allowed has failed."""
    settings = connections.settings
    for row in connection.execute(_LOST_OTHERS, {"timeout": settings.worker_timeout_s}).all():
        logger.warning("job taken over", extra={"kind": row.task_name, "job": row.id})
        begun = row.attempts + 1
        if begun < settings.training_attempts:
            _enqueue_again(connection, row.id)
            continue
        if row.task_name == "report":
            finding_id = uuid.UUID(row.args["finding_id"])
            note_failed_report(connections, row.args["model"], finding_id, f"{begun} attempts lost their worker")
        connection.execute(_GIVE_UP_JOB, {"id": row.id})


def _enqueue_again(connection: Connection, job_id: int) -> None:
    try:
        with connection.begin_nested():
            connection.execute(_ENQUEUE_AGAIN, {"id": job_id})
    except IntegrityError as error:
        if not isinstance(error.orig, UniqueViolation):
            raise
        # The clock has enqueued the next one of this kind, which does the same work.
        connection.execute(_GIVE_UP_JOB, {"id": job_id})


def _replace_job(
    connection: Connection, table: str, row_id: uuid.UUID, job_id: int, task: TaskName, arguments: dict[str, str]
) -> None:
    connection.execute(_END_JOB, {"id": job_id})
    new_job = enqueue(connection, task, **arguments)
    replaced = text(f"UPDATE {table} SET job_id = :job_id WHERE id = :id")  # noqa: S608  # names of our own
    connection.execute(replaced, {"id": row_id, "job_id": new_job})


def settle_left(connections: Connections) -> None:
    """Settle the ended trainings that nobody is carrying out any more."""
    with connections.engine.begin() as connection:
        left = []
        for row in connection.execute(_UNSETTLED, {"timeout": connections.settings.worker_timeout_s}).all():
            connection.execute(_END_JOB, {"id": row.job_id})
            left.append(get_training(connection, row.id))
        left += find_unwatched(connection)
    for training in left:
        logger.warning("training settled", extra={"training": str(training.id), "state": training.state})
        settle_training(connections, training)
