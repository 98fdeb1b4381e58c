"""Alerts: what people are told of, once a cause until it clears, and the messages that tell them.

An alert is raised in the transaction that stores what it is about, with one message for each channel; sending them is
a job's work, so that a mail server that is away delays a message and loses none.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from core.tables.monitoring import alert_messages, alerts

Severity = Literal["info", "warning", "critical"]
Channel = Literal["mail", "webhook", "slack"]
Occasion = Literal["raised", "cleared"]
MessageState = Literal["waiting", "delivered", "unwanted"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
CHANNELS: tuple[Channel, ...] = get_args(Channel)


@dataclass(frozen=True)
class Alert:
    """One row of table `alerts`: open until `cleared_at`. `times` is how often the cause was met while it was open."""

    id: uuid.UUID
    model: str
    cause: str
    severity: Severity
    title: str
    reasons: Sequence[str]
    finding_id: uuid.UUID | None
    times: int
    raised_at: datetime
    cleared_at: datetime | None
    cleared_reason: str | None


@dataclass(frozen=True)
class AlertMessage:
    """One row of table `alert_messages`: what a channel is to say of an alert."""

    id: uuid.UUID
    alert_id: uuid.UUID
    channel: Channel
    occasion: Occasion
    state: MessageState
    attempts: int
    due_at: datetime
    error: str | None
    delivered_at: datetime | None


_COLUMNS = [alerts.c[name] for name in Alert.__dataclass_fields__]
_MESSAGE_COLUMNS = [alert_messages.c[name] for name in AlertMessage.__dataclass_fields__]


def _build(row: Row[tuple[object, ...]]) -> Alert:
    return Alert(**row._mapping)


def raise_alert(
    connection: Connection,
    model: str,
    cause: str,
    severity: Severity,
    title: str,
    reasons: Sequence[str],
    finding_id: uuid.UUID | None = None,
) -> Alert:
    """Raise an alert in the caller's transaction, with its messages; returns the open one.

    While one of the same cause is open, that one is counted up and nobody is told again, unless it became more severe.
    """
    statement = insert(alerts).values(
        id=uuid.uuid4(),
        model=model,
        cause=cause,
        severity=severity,
        title=title,
        reasons=list(reasons),
        finding_id=finding_id,
    )
    statement = statement.on_conflict_do_nothing(
        index_elements=["model", "cause"], index_where=alerts.c.cleared_at.is_(None)
    )
    row = connection.execute(statement.returning(*_COLUMNS)).first()
    if row is not None:
        alert = _build(row)
        _add_messages(connection, alert.id, "raised")
        return alert
    is_open = (alerts.c.model == model) & (alerts.c.cause == cause) & alerts.c.cleared_at.is_(None)
    known = connection.execute(select(*_COLUMNS).where(is_open).with_for_update()).first()
    if known is None:
        # It was cleared between the two statements.
        return raise_alert(connection, model, cause, severity, title, reasons, finding_id)
    values: dict[str, object] = {"times": alerts.c.times + 1}
    grew = SEVERITIES.index(severity) > SEVERITIES.index(known.severity)
    if grew:
        values |= {"severity": severity, "title": title, "reasons": list(reasons), "finding_id": finding_id}
    alert = _build(connection.execute(update(alerts).where(is_open).values(values).returning(*_COLUMNS)).one())
    if grew:
        _add_messages(connection, alert.id, "raised")
    return alert


def clear_alert(
    connection: Connection, model: str, cause: str, reason: str, *, raised_before: datetime | None = None
) -> Alert | None:
    """Clear the open alert of the cause in the caller's transaction and tell of it; None where none was open.

    With `raised_before` one that was raised later stays.
    """
    is_meant = (alerts.c.model == model) & (alerts.c.cause == cause) & alerts.c.cleared_at.is_(None)
    if raised_before is not None:
        is_meant &= alerts.c.raised_at < raised_before
    row = connection.execute(
        update(alerts).where(is_meant).values(cleared_at=func.now(), cleared_reason=reason).returning(*_COLUMNS)
    ).first()
    if row is None:
        return None
    alert = _build(row)
    _add_messages(connection, alert.id, "cleared")
    return alert


def _add_messages(connection: Connection, alert_id: uuid.UUID, occasion: Occasion) -> None:
    rows = [
        {"id": uuid.uuid4(), "alert_id": alert_id, "channel": channel, "occasion": occasion} for channel in CHANNELS
    ]
    connection.execute(insert(alert_messages), rows)


def load_alerts(
    connection: Connection, model: str | None = None, *, is_open: bool | None = None, limit: int = 50
) -> list[Alert]:
    """Alerts, newest first: those of one model, or those that are open, or those that are not."""
    statement = select(*_COLUMNS).order_by(alerts.c.raised_at.desc(), alerts.c.id).limit(limit)
    if model is not None:
        statement = statement.where(alerts.c.model == model)
    if is_open is not None:
        statement = statement.where(alerts.c.cleared_at.is_(None) if is_open else alerts.c.cleared_at.is_not(None))
    return [_build(row) for row in connection.execute(statement)]


def get_alert(connection: Connection, alert_id: uuid.UUID) -> Alert:
    """The alert of a message."""
    return _build(connection.execute(select(*_COLUMNS).where(alerts.c.id == alert_id)).one())


def load_messages(connection: Connection, alert_id: uuid.UUID) -> list[AlertMessage]:
    """The messages of one alert, in the order of channels and occasions."""
    statement = select(*_MESSAGE_COLUMNS).where(alert_messages.c.alert_id == alert_id)
    rows = connection.execute(statement.order_by(alert_messages.c.channel, alert_messages.c.created_at))
    return [AlertMessage(**row._mapping) for row in rows]


def take_due_message(
    connection: Connection, now: datetime, *, without: Collection[Channel] = ()
) -> AlertMessage | None:
    """One message that is due, of other channels than those; locked until the transaction ends, others take others."""
    row = connection.execute(
        select(*_MESSAGE_COLUMNS)
        .where(alert_messages.c.state == "waiting", alert_messages.c.due_at <= now)
        .where(alert_messages.c.channel.not_in(without))
        .order_by(alert_messages.c.due_at, alert_messages.c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()
    return None if row is None else AlertMessage(**row._mapping)


def settle_message(
    connection: Connection, message: AlertMessage, state: MessageState, now: datetime, reason: str | None = None
) -> None:
    """Note that a message was delivered, or that nobody wants it."""
    delivered_at = now if state == "delivered" else None
    connection.execute(
        update(alert_messages)
        .where(alert_messages.c.id == message.id)
        .values(state=state, delivered_at=delivered_at, error=reason, attempts=alert_messages.c.attempts + 1)
    )


def postpone_message(connection: Connection, message: AlertMessage, due_at: datetime, reason: str) -> None:
    """Note that a message could not be delivered, and when it is to be tried again."""
    connection.execute(
        update(alert_messages)
        .where(alert_messages.c.id == message.id)
        .values(due_at=due_at, error=reason, attempts=alert_messages.c.attempts + 1)
    )
