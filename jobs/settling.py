"""Trainings that have ended, and what their attempts left half done in MLflow.

A training ends in the database in one commit; the process that ended it may be killed before it has ended its run, and
one that is cancelled or killed may have registered a version that never came to a verdict.
"""

import logging

from core.connections import Connections
from core.registry import RegisteredVersion
from core.tracking import TRAINING_TAG
from core.trainings import Training, mark_settled
from core.verdicts import load_outcomes

logger = logging.getLogger(__name__)


def settle_training(connections: Connections, training: Training) -> None:
    """End the runs of an ended training, delete the versions that it does not stand for, and note that this is done.

    Its processes are gone: whoever calls this has seen to that. Done twice it changes nothing. Raises
    TrackingUnavailable.
    """
    finished_run_id = training.run_id if training.state == "finished" else None
    connections.tracking.reap_runs(training.model, str(training.id), finished_run_id)
    with connections.engine.connect() as connection:
        outcomes = load_outcomes(connection, training.model)
    for found in connections.registry.load_versions(training.model):
        if _is_left(found, training, has_verdict=found.version in outcomes):
            connections.registry.delete_version(training.model, found.version)
            logger.warning("half-made version deleted", extra={"model": training.model, "version": found.version})
    with connections.engine.begin() as connection:
        mark_settled(connection, training.id)


def _is_left(found: RegisteredVersion, training: Training, *, has_verdict: bool) -> bool:
    """Whether the version is the training's and was never finished; a person may have moved it on all the same."""
    if found.tags.get(TRAINING_TAG) != str(training.id) or found.stage != "None":
        return False
    # A verdict that was cancelled before it was carried out counts for nothing.
    return not has_verdict or training.state == "cancelled"
