"""When and how much was asked of a model, whichever version answered."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from core.tables.data import sources
from core.tables.predictions import request_counts

DAYS = 29
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Traffic:
    """Requests of one model.

    Attributes:
        now: the database's clock, UTC.
        days: requests in each of the last days of 24 whole hours, newest first, back to the first that had any.
        served_at: the end of the last hour with a request, at most now; None if there was none.
        observed_at: when observations last came in; None if none did.
        ahead: predictions in hours that have not begun yet.
    """

    now: datetime
    days: tuple[int, ...] = ()
    served_at: datetime | None = None
    observed_at: datetime | None = None
    ahead: int = 0


def load_traffic(connection: Connection, model: str, now: datetime) -> Traffic:
    """The model's traffic of the last four weeks up to `now`, UTC."""
    counted = request_counts.c
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    statement = (
        select(counted.hour, func.sum(counted.predictions), func.sum(counted.refusals))
        .where(counted.model == model, counted.hour >= this_hour - DAYS * _DAY)
        .group_by(counted.hour)
    )
    requests = [0] * DAYS
    ahead = 0
    last_hour: datetime | None = None
    for hour, predictions, refusals in connection.execute(statement):
        if hour > now:
            ahead += int(predictions)
            continue
        if predictions + refusals:
            last_hour = hour if last_hour is None else max(hour, last_hour)
        if hour < this_hour:
            requests[(this_hour - hour - _HOUR) // _DAY] += int(predictions + refusals)
    known = max((day for day, total in enumerate(requests) if total), default=-1) + 1
    observed_at = connection.scalar(
        select(func.max(sources.c.received_at)).where(sources.c.model == model, sources.c.state == "imported")
    )
    return Traffic(
        now=now,
        days=tuple(requests[:known]),
        served_at=None if last_hour is None else min(last_hour + _HOUR, now),
        observed_at=observed_at,
        ahead=ahead,
    )
