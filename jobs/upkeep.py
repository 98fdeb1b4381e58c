"""What keeps the tables in shape by the clock: partitions made ahead, and dropped when their time is over."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from core.connections import Connections
from core.contract import Contract
from core.database import create_partitions, drop_partitions
from ingestion.store import AHEAD, drop_expired, has_table, lock_observations, make_partitions_ahead
from workloads.catalogue import load_catalogue

logger = logging.getLogger(__name__)

KEEP_CRON = "23 * * * *"
"""Every hour; most find nothing to do."""

# Dropping a partition waits for its readers, and everyone else then waits behind it.
_LOCK_TIMEOUT = "10s"


def keep_partitions(connections: Connections, now: datetime | None = None) -> list[str]:
    """Make the next partitions of observations and predictions and drop those that are past their retention.

    Returns the names of the dropped ones. A table that is in use for too long is left for the next time.
    """
    now = now or datetime.now(UTC)
    dropped: list[str] = []
    for workload in load_catalogue().values():
        contract = workload.build_contract()
        dropped += _keep(connections, contract.model, partial(_keep_observations, contract=contract, now=now))
    days = connections.settings.prediction_days
    return dropped + _keep(connections, "predictions", partial(_keep_predictions, days=days, now=now))


def _keep_observations(connection: Connection, contract: Contract, now: datetime) -> list[str]:
    if not has_table(connection, contract.model):
        return []
    lock_observations(connection, contract.model)
    make_partitions_ahead(connection, contract, now)
    return drop_expired(connection, contract, now)


def _keep_predictions(connection: Connection, days: int | None, now: datetime) -> list[str]:
    create_partitions(connection, "predictions", now, now + AHEAD, "month")
    return [] if days is None else drop_partitions(connection, "predictions", now - timedelta(days=days), "month")


def _keep(connections: Connections, what: str, keep: Callable[[Connection], list[str]]) -> list[str]:
    try:
        with connections.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout TO '{_LOCK_TIMEOUT}'"))
            dropped = keep(connection)
    except (OperationalError, psycopg.OperationalError) as error:
        logger.warning("partitions wait", extra={"table": what, "reason": str(error)})
        return []
    for name in dropped:
        logger.info("dropped a partition past its retention", extra={"partition": name})
    return dropped
