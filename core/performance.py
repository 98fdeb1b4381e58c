"""Realised performance: the error of a version's predictions against their outcomes, by period, with an interval.

Losses are computed by the database, row by row in the order of their outcomes; of many rows, neighbours are averaged
there, so that what is read stays small.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from core.bootstrap import bootstrap_mean_interval, choose_block_length
from core.evaluations import Evaluation, find_evaluation

Period = Literal["day", "week", "month"]

MOST_PERIODS = 400
"""Periods that are measured at once, the latest of them."""

MOST_MEANS = 20_000
"""Losses that are read one by one; of more, the means of as many neighbours as it takes."""

_SMALLEST_DENOMINATOR = 1e-8
_SMALLEST_PROBABILITY = 1e-7
_SEED = 11


@dataclass(frozen=True)
class Realised:
    """The error of predictions whose outcomes are of a span of time, in the gate's metric, and its interval.

    `rows` counts steps of predictions with an outcome. `baseline_error` is the error of the version's baseline on the
    same rows, None where it is not known. Without rows, and where the version's evaluation is not kept, there is no
    error; an interval needs two rows.
    """

    rows: int
    error: float | None
    lower: float | None
    upper: float | None
    baseline_error: float | None
    metric: str


@dataclass(frozen=True)
class RealisedPeriod:
    """The realised error of one day, week (from Monday) or month, from `from_at` up to `to_at`, UTC."""

    from_at: datetime
    to_at: datetime
    realised: Realised


@dataclass(frozen=True)
class VersionPerformance:
    """What a version's evaluation promised, and its realised errors, oldest first."""

    evaluation: Evaluation
    periods: tuple[RealisedPeriod, ...]


def load_realised(connection: Connection, model: str, version: int, from_at: datetime, to_at: datetime) -> Realised:
    """The version's error on outcomes of times from `from_at` up to, but not at, `to_at`.

    The interval has the confidence of the version's own evaluation. Errors of series, and of rows with a time, are
    resampled in moving blocks of n^(1/3) times, others row by row.
    """
    evaluation = find_evaluation(connection, model, version)
    if evaluation is None:
        return Realised(0, None, None, None, None, "")
    return measure_realised(connection, evaluation, from_at, to_at)


def measure_realised(connection: Connection, evaluation: Evaluation, from_at: datetime, to_at: datetime) -> Realised:
    """As `load_realised`, of a version whose evaluation is at hand."""
    span = {"model": evaluation.model, "version": evaluation.version, "from_at": from_at, "to_at": to_at}
    rows, times = connection.execute(
        text(f"SELECT count(*), count(DISTINCT outcome_at) {_FROM}"),
        span,
    ).one()
    if not rows:
        return Realised(0, None, None, None, None, evaluation.metric)
    a_mean = -(-rows // MOST_MEANS)
    sums, counts, baseline = _load_sums(connection, evaluation, span, a_mean)
    mean = float(sums.sum() / rows)
    lower: float | None = None
    upper: float | None = None
    if rows > 1:
        block_rows = 1
        if evaluation.contract.key.time is not None:
            block_rows = choose_block_length(times) * -(-rows // times)
        lower, upper = bootstrap_mean_interval(
            sums / counts,
            confidence=evaluation.confidence,
            block_length=-(-block_rows // a_mean),
            seed=_SEED,
        )
        lower, upper = _finish(evaluation.metric, lower), _finish(evaluation.metric, upper)
    return Realised(
        rows=rows,
        error=_finish(evaluation.metric, mean),
        lower=lower,
        upper=upper,
        baseline_error=None if baseline is None else _finish(evaluation.metric, baseline / rows),
        metric=evaluation.metric,
    )


def load_periods(
    connection: Connection, evaluation: Evaluation, period: Period, from_at: datetime, to_at: datetime
) -> list[RealisedPeriod]:
    """The realised error of every period that touches the span and has outcomes, oldest first; the last 400."""
    found = connection.execute(
        text(f"SELECT DISTINCT date_trunc(:period, outcome_at, 'UTC') AS start {_FROM} ORDER BY start"),
        {
            "period": period,
            "model": evaluation.model,
            "version": evaluation.version,
            "from_at": _truncate(from_at, period),
            "to_at": to_at,
        },
    )
    starts = [start.astimezone(UTC) for (start,) in found][-MOST_PERIODS:]
    return [
        RealisedPeriod(start, end, measure_realised(connection, evaluation, start, end))
        for start, end in ((start, _find_next(start, period)) for start in starts)
    ]


def load_performance(
    connection: Connection, model: str, period: Period, from_at: datetime, to_at: datetime
) -> list[VersionPerformance]:
    """Every version with outcomes of the span whose evaluation is kept, oldest first."""
    found = []
    for version in find_measured_versions(connection, model, from_at, to_at):
        evaluation = find_evaluation(connection, model, version)
        if evaluation is not None:
            periods = load_periods(connection, evaluation, period, from_at, to_at)
            found.append(VersionPerformance(evaluation, tuple(periods)))
    return found


def count_joined(connection: Connection, model: str, version: int) -> int:
    """How many outcomes the version's predictions have had since its first."""
    query = text("SELECT count(*) FROM joined_outcomes WHERE model = :model AND version = :version")
    return int(connection.execute(query, {"model": model, "version": version}).scalar_one())


def find_measured_versions(connection: Connection, model: str, from_at: datetime, to_at: datetime) -> list[int]:
    """The versions that have outcomes of the span, oldest first."""
    query = text(
        "SELECT DISTINCT version FROM joined_outcomes"
        " WHERE model = :model AND outcome_at >= :from_at AND outcome_at < :to_at ORDER BY version"
    )
    return list(connection.scalars(query, {"model": model, "from_at": from_at, "to_at": to_at}))


_FROM = (
    "FROM joined_outcomes WHERE model = :model AND version = :version"
    " AND outcome_at >= :from_at AND outcome_at < :to_at"
)


def _load_sums(
    connection: Connection, evaluation: Evaluation, span: dict[str, object], a_mean: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float | None]:
    """Sums of losses `(means,)` of `a_mean` neighbours each, how many they are `(means,)`, and the baseline's sum."""
    loss = _LOSSES[evaluation.metric]
    place = "(row_number() OVER (ORDER BY outcome_at, prediction_id, step) - 1) / :a_mean AS place"
    query = (
        f"SELECT sum({loss}), count(*), sum({_build_baseline(evaluation)})"  # noqa: S608  all parts are ours
        f" FROM (SELECT *, {place} {_FROM}) AS placed GROUP BY place ORDER BY place"
    )
    constants = {f"mean_{at}": mean for at, mean in enumerate(evaluation.target_means or ())}
    found = connection.execute(text(query), {**span, **constants, "a_mean": a_mean}).all()
    sums = np.array([row[0] for row in found], dtype=np.float64)
    counts = np.array([row[1] for row in found], dtype=np.float64)
    baselines = [row[2] for row in found]
    return sums, counts, None if any(value is None for value in baselines) else float(math.fsum(baselines))


def _clip(probability: str) -> str:
    return f"least(greatest({probability}, {_SMALLEST_PROBABILITY}), 1 - {_SMALLEST_PROBABILITY})"


def _percentage(predicted: str) -> str:
    return f"100 * abs({predicted} - value) / greatest(abs(value), {_SMALLEST_DENOMINATOR})"


# As `training.evaluation` computes them.
_LOSSES = {
    "mae": "abs(predicted - value)",
    "rmse": "squared",
    "mape": _percentage("predicted"),
    "log_loss": f"-ln({_clip('predicted')})",
    "brier": "squared",
}


def _build_baseline(evaluation: Evaluation) -> str:
    """The baseline's loss on a row: persistence of a series, the training part's means of a table."""
    metric, contract = evaluation.metric, evaluation.contract
    if contract.kind == "sequence":
        if contract.variant:
            # Its features may stand in another order than those that the joins count by.
            return "NULL::double precision"
        of_row = {"mae": "abs(baseline - value)", "rmse": "(baseline - value) ^ 2", "mape": _percentage("baseline")}
        return of_row[metric]
    means = evaluation.target_means
    if means is None:
        return "NULL::double precision"
    names = [f"CAST(:mean_{at} AS double precision)" for at in range(len(means))]
    if contract.task == "regression":
        return {"mae": f"abs({names[0]} - value)", "rmse": f"({names[0]} - value) ^ 2", "mape": _percentage(names[0])}[
            metric
        ]
    if contract.task == "binary":
        came, squared = f"CASE WHEN value > 0.5 THEN {names[0]} ELSE 1 - {names[0]} END", f"({names[0]} - value) ^ 2"
    else:
        came = f"(ARRAY[{', '.join(names)}])[value::integer + 1]"
        squared = " + ".join(
            f"({name} - CASE WHEN value = {at} THEN 1 ELSE 0 END) ^ 2" for at, name in enumerate(names)
        )
    return f"-ln({_clip(came)})" if metric == "log_loss" else squared


def _finish(metric: str, mean_loss: float) -> float:
    """The metric of a mean loss; the loss of `rmse` is squared."""
    return math.sqrt(max(mean_loss, 0.0)) if metric == "rmse" else mean_loss


def _truncate(at: datetime, period: Period) -> datetime:
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == "month" else day


def _find_next(start: datetime, period: Period) -> datetime:
    if period == "month":
        return (start + timedelta(days=32)).replace(day=1)
    return start + timedelta(days=7 if period == "week" else 1)
