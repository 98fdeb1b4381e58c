"""Windows: what a version served lately, read from hourly counts and, for charts, from a sample of predictions."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd
from sqlalchemy import Connection, func, select

from core.reference import Reference
from core.tables import feature_counts, predictions, request_counts
from monitoring.drift import WindowCounts


def load_window(
    connection: Connection, model: str, version: int, reference: Reference, from_at: datetime, to_at: datetime
) -> WindowCounts:
    """The counts of all whole hours that touch `from_at` to `to_at`, UTC. Costs the same whatever was served."""
    first_hour = func.date_trunc("hour", from_at, "UTC")
    counted = feature_counts.c
    statement = (
        select(counted.feature, counted.bin, func.sum(counted.count))
        .where(counted.model == model, counted.version == version)
        .where(counted.hour >= first_hour, counted.hour <= to_at)
        .group_by(counted.feature, counted.bin)
    )
    counts = {feature.name: np.zeros(len(feature.counts), dtype=np.int64) for feature in reference.features}
    for feature, position, total in connection.execute(statement):
        counts[feature][position] = int(total)
    requested = request_counts.c
    totals = connection.execute(
        select(func.coalesce(func.sum(requested.predictions), 0), func.coalesce(func.sum(requested.refusals), 0)).where(
            requested.model == model,
            requested.version == version,
            requested.hour >= first_hour,
            requested.hour <= to_at,
        )
    ).one()
    return WindowCounts(rows=int(totals[0]), counts=counts, refusals=int(totals[1]))


def count_served(connection: Connection, model: str, version: int) -> int:
    """How many predictions the version has answered since its first."""
    counted = request_counts.c
    statement = select(func.coalesce(func.sum(counted.predictions), 0)).where(
        counted.model == model, counted.version == version
    )
    return int(connection.execute(statement).scalar_one())


def load_window_sample(
    connection: Connection,
    model: str,
    version: int,
    names: Sequence[str],
    from_at: datetime,
    to_at: datetime,
    rows: int,
) -> pd.DataFrame:
    """The monitored features of at most `rows` predictions of the window, one column each.

    Ids are random, so the first ones in their order are a random sample.
    """
    served = predictions.c
    statement = (
        select(served.monitored)
        .where(served.model == model, served.version == version, served.is_refusal.is_(False))
        .where(served.at >= func.date_trunc("hour", from_at, "UTC"), served.at <= to_at)
        .order_by(served.id)
        .limit(rows)
    )
    values = [row[0] for row in connection.execute(statement)]
    return pd.DataFrame(np.array(values, dtype=np.float64).reshape(len(values), len(names)), columns=list(names))
