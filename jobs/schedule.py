"""What happens by the clock, and at start-up."""

from core.connections import Connections
from core.trainings import load_trainings, request_training
from core.transitions import load_waiting
from ingestion.store import count_observations
from workloads.catalogue import load_catalogue

RECONCILE_CRON = "* * * * * */5"
"""Every five seconds (of six fields, Procrastinate's cron has the seconds last)."""

CHECK_CRON = "7 * * * *"
"""Every hour, a few minutes after its counts are complete."""

PROBATION_CRON = "* * * * *"
"""Every minute."""


def find_untrained(connections: Connections) -> list[str]:
    """The workloads that have observations, and no version in Production nor one that waits for an approval."""
    production = connections.registry.load_production_versions()
    with connections.engine.connect() as connection:
        has_version = production.keys() | {waiting.model for waiting in load_waiting(connection)}
        return [
            name for name in load_catalogue() if name not in has_version and count_observations(connection, name) > 0
        ]


def request_startup_trainings(connections: Connections) -> list[str]:
    """Request a training of every untrained workload; returns the names of those that had none open."""
    requested = []
    for name in find_untrained(connections):
        with connections.engine.begin() as connection:
            _, is_new = request_training(connection, name, cause="startup", actor="platform")
        if is_new:
            requested.append(name)
    return requested


def find_waiting(connections: Connections) -> list[str]:
    """The untrained workloads whose first training is still to come or under way."""
    waiting = []
    for name in find_untrained(connections):
        with connections.engine.connect() as connection:
            newest = next(iter(load_trainings(connection, name, limit=1)), None)
        if newest is None or newest.is_open:
            waiting.append(name)
    return waiting
