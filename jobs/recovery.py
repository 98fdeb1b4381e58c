"""Trainings that lost their worker: found by heartbeat, taken over or ended."""

import logging

from sqlalchemy import text

from core.connections import Connections
from core.job_queue import enqueue
from core.trainings import fail_abandoned_trainings

logger = logging.getLogger(__name__)

# An open training whose job is gone or ended, or belongs to a worker that no longer gives its heartbeat.
_LOST = text(
    """
    SELECT training.id, training.job_id
    FROM trainings training
    LEFT JOIN procrastinate_jobs job ON job.id = training.job_id
    LEFT JOIN procrastinate_workers worker ON worker.id = job.worker_id
    WHERE training.state IN ('queued', 'running') AND training.job_id IS NOT NULL
      AND (job.id IS NULL OR job.status NOT IN ('todo', 'doing')
           OR (job.status = 'doing'
               AND (worker.id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => :timeout))))
    FOR UPDATE OF training SKIP LOCKED
    """
)
_REPLACE_JOB = text("UPDATE trainings SET job_id = :job_id WHERE id = :id")
_END_JOB = text("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = :id AND status = 'doing'")


def recover_trainings(connections: Connections) -> None:
    """Enqueue lost trainings again; their next attempt has a higher fencing number, so a late one changes nothing.

    A training that ran in a person's own process, which has ended, is marked as failed.
    """
    with connections.engine.begin() as connection:
        for training_id, job_id in connection.execute(_LOST, {"timeout": connections.settings.worker_timeout_s}).all():
            connection.execute(_END_JOB, {"id": job_id})
            new_job = enqueue(connection, "train", training_id=str(training_id))
            connection.execute(_REPLACE_JOB, {"id": training_id, "job_id": new_job})
            logger.warning("training taken over", extra={"training": str(training_id)})
    for training in fail_abandoned_trainings(connections.engine):
        logger.warning("training abandoned", extra={"training": str(training.id)})
        connections.tracking.reap_runs(training.model, str(training.id))
