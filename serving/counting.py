"""Hourly counts of what was served: requests, refusals by column, values in bins, their sums, and absent values.

What is added here is exactly what the caller's transaction inserted, so that everything is counted once.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Table
from sqlalchemy.dialects.postgresql import insert

from core.reference import Reference, ReferenceFeature, count_bins
from core.tables.predictions import feature_counts, feature_sums, quality_counts, request_counts
from serving.records import Entry

HOUR_US = 3600 * 10**6
_COUNTED = ("predictions", "answers", "refusals", "failures")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

HourKey = tuple[str, int, int]
"""Model, version, and the hour counted from 1970."""


@dataclass
class Hour:
    """What one version served within one hour; the arrays are `(rows, watched)` and `(rows, inputs)`, in pieces."""

    predictions: int = 0
    answers: int = 0
    refusals: int = 0
    failures: int = 0
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    watched: list[NDArray[np.floating]] = field(default_factory=list)
    inputs: list[NDArray[np.floating]] = field(default_factory=list)

    def add(self, entry: Entry, rows: Sequence[int] | None) -> None:
        """Add the entry, or those of its rows alone."""
        if entry.reason is not None:
            if entry.is_failure:
                self.failures += 1
            else:
                self.refusals += 1
            self.refused.update(entry.refused)
            return
        watched, inputs = entry.monitored, entry.inputs
        if rows is not None:
            watched, inputs = watched[rows], inputs[rows]
        self.predictions += len(watched)
        self.answers += 1
        self.watched.append(watched)
        self.inputs.append(inputs)


def add_counts(
    connection: Connection,
    hours: Mapping[HourKey, Hour],
    find_reference: Callable[[str, int], Reference | None],
) -> None:
    """Add the hours to the counts in the caller's transaction; `find_reference` knows the bins of a version."""
    requests: list[dict[str, object]] = []
    values: list[dict[str, object]] = []
    sums: list[dict[str, object]] = []
    quality: list[dict[str, object]] = []
    # Sorted, so that two shippers lock the rows in the same order.
    for (model, version, number), hour in sorted(hours.items(), key=lambda item: item[0]):
        whose = {"model": model, "version": version, "hour": to_time(number * HOUR_US)}
        requests.append(whose | {name: getattr(hour, name) for name in _COUNTED})
        faults = Counter(hour.refused)
        reference = find_reference(model, version) if hour.watched else None
        if reference is not None:
            watched = np.concatenate(hour.watched)
            values += [whose | row for row in _count_values(reference, watched)]
            sums += [whose | row for row in _sum_values(reference, watched)]
            faults += _count_faults(reference, np.concatenate(hour.inputs)) if reference.quality else Counter()
        quality += [
            whose | {"column": column, "kind": kind, "count": count} for (column, kind), count in sorted(faults.items())
        ]
    _add(connection, request_counts, requests, _COUNTED)
    _add(connection, feature_counts, values, ("count",))
    _add(connection, feature_sums, sums, ("values", "sum", "squares"))
    _add(connection, quality_counts, quality, ("count",))


def to_time(at_us: int) -> datetime:
    """The time that many microseconds after 1970, UTC."""
    return _EPOCH + timedelta(microseconds=at_us)


def _count_values(reference: Reference, watched: NDArray[np.floating]) -> list[dict[str, object]]:
    counted = zip(reference.names, count_bins(reference, watched), strict=True)
    return [
        {"feature": name, "bin": int(number), "count": int(counts[number])}
        for name, counts in sorted(counted, key=lambda item: item[0])
        for number in np.flatnonzero(counts)
    ]


def _sum_values(reference: Reference, watched: NDArray[np.floating]) -> list[dict[str, object]]:
    named = sorted(zip(reference.features, watched.T, strict=True), key=lambda item: item[0].name)
    return [_sum_feature(feature, column) for feature, column in named if not feature.is_category]


def _sum_feature(feature: ReferenceFeature, column: NDArray[np.floating]) -> dict[str, object]:
    # Around the mean of training and in its deviations: sums of plain squares lose what a large mean hides.
    with np.errstate(over="ignore"):
        rounded = column.astype(np.float32).astype(np.float64)
    strayed = (rounded[np.isfinite(rounded)] - feature.mean) / (feature.sd or 1.0)
    return {
        "feature": feature.name,
        "values": len(strayed),
        "sum": float(strayed.sum()),
        "squares": float(np.square(strayed).sum()),
    }


def _count_faults(reference: Reference, inputs: NDArray[np.floating]) -> Counter[tuple[str, str]]:
    """Answered rows without a value, or with a category that the version does not know, by column and kind."""
    faults: Counter[tuple[str, str]] = Counter()
    for rate in reference.quality:
        column = inputs[:, rate.position]
        count = int((np.isnan(column) if rate.kind == "imputed" else column == 0).sum())
        if count:
            faults[rate.column, rate.kind] = count
    return faults


def _add(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]], added: Sequence[str]) -> None:
    if not rows:
        return
    statement = insert(table)
    statement = statement.on_conflict_do_update(
        constraint=table.primary_key, set_={name: table.c[name] + statement.excluded[name] for name in added}
    )
    connection.execute(statement, rows)
