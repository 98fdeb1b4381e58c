"""The periodic look at the versions on probation."""

import logging

from core.connections import Connections
from core.errors import MillraceError
from monitoring.probation import watch_probation
from workloads.catalogue import load_catalogue

logger = logging.getLogger(__name__)


def watch_probations(connections: Connections) -> None:
    """Judge every workload's version that is on probation; one query for each that is not."""
    for name, workload in load_catalogue().items():
        try:
            watch_probation(connections, name, workload.probation)
        except MillraceError as error:
            logger.warning("a rollback waits", extra={"model": name, "reason": error.sentence})
        except Exception:
            # Whatever one version's outcomes do to its judgement must not keep the others from theirs.
            logger.exception("a version on probation could not be judged", extra={"model": name})
