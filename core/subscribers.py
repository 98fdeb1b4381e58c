"""What the subscribers of a broker last said of themselves."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from core.tables.data import subscribers

SEEN_WITHIN_S = 30.0
"""A subscriber that has said nothing for so long is taken for gone; it says something every few seconds."""


@dataclass(frozen=True)
class SubscriberState:
    """One subscriber: how many messages it has acknowledged since it started, and whether it was heard of lately."""

    client_id: str
    broker: str
    messages: int
    rows_rejected: int
    seen_at: datetime
    is_live: bool


def write_subscriber(connection: Connection, client_id: str, broker: str, messages: int, rows_rejected: int) -> None:
    """Say that the subscriber is connected to its broker, and what it has done."""
    values = {"broker": broker, "messages": messages, "rows_rejected": rows_rejected, "seen_at": func.clock_timestamp()}
    statement = insert(subscribers).values(client_id=client_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["client_id"], set_=values))


def load_subscribers(connection: Connection) -> list[SubscriberState]:
    """Every subscriber that there ever was, by its client id."""
    age_s = func.extract("epoch", func.clock_timestamp() - subscribers.c.seen_at)
    query = select(*subscribers.c, (age_s < SEEN_WITHIN_S).label("is_live")).order_by(subscribers.c.client_id)
    return [SubscriberState(**row._mapping) for row in connection.execute(query)]
