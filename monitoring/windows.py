"""Windows: what a version served lately, read from hourly counts and, for charts, from a sample of predictions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Select, Table, func, select

from core.reference import Reference
from core.tables.predictions import feature_counts, feature_sums, predictions, quality_counts, request_counts
from monitoring.drift import WindowCounts


def load_window(
    connection: Connection, model: str, version: int, reference: Reference | None, from_at: datetime, to_at: datetime
) -> WindowCounts:
    """The counts of all whole hours that touch `from_at` to `to_at`, UTC. Costs the same whatever was served.

    Without a reference values were counted in no bins, and there are none.
    """
    first_hour = func.date_trunc("hour", from_at, "UTC")
    counts: dict[str, NDArray[np.int64]] = {}
    if reference is not None:
        counts = {feature.name: np.zeros(len(feature.counts), dtype=np.int64) for feature in reference.features}
        for feature, position, total in connection.execute(
            _sum_over(feature_counts, ("feature", "bin"), ("count",), model, version, first_hour, to_at)
        ):
            counts[feature][position] = int(total)
    sums = {
        feature: (int(values), float(total), float(squares))
        for feature, values, total, squares in connection.execute(
            _sum_over(feature_sums, ("feature",), ("values", "sum", "squares"), model, version, first_hour, to_at)
        )
    }
    faults = {
        (column, kind): int(count)
        for column, kind, count in connection.execute(
            _sum_over(quality_counts, ("column", "kind"), ("count",), model, version, first_hour, to_at)
        )
    }
    requested = request_counts.c
    totals = connection.execute(
        select(func.coalesce(func.sum(requested.predictions), 0), func.coalesce(func.sum(requested.refusals), 0)).where(
            requested.model == model,
            requested.version == version,
            requested.hour >= first_hour,
            requested.hour <= to_at,
        )
    ).one()
    return WindowCounts(rows=int(totals[0]), counts=counts, refusals=int(totals[1]), faults=faults, sums=sums)


def _sum_over(
    table: Table,
    by: Sequence[str],
    summed: Sequence[str],
    model: str,
    version: int,
    first_hour: ColumnElement[datetime],
    to_at: datetime,
) -> Select[Any]:
    """Hourly counts of one version, added over the hours."""
    keys = [table.c[name] for name in by]
    return (
        select(*keys, *(func.sum(table.c[name]) for name in summed))
        .where(table.c.model == model, table.c.version == version)
        .where(table.c.hour >= first_hour, table.c.hour <= to_at)
        .group_by(*keys)
    )


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
