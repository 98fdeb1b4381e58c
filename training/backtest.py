"""Backtest of a series: the forecast origin rolls through the hold-out.

The model stays as it was trained ("fixed"): its inputs move on with the origin, its weights do not, which costs
nothing and is what the service does with a version. Fitting anew at each origin is what tuning does on its folds.
Source: Hyndman and Athanasopoulos, "Forecasting: principles and practice", 3rd ed., 5.10; Tashman, "Out-of-sample
tests of forecasting accuracy", 2000.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from training.parts import FloatArray, Part

FOLDS = 5
MINIMUM_FOLD_ROWS = 10
Measure = Callable[[FloatArray, FloatArray], Mapping[str, float]]


@dataclass(frozen=True)
class Fold:
    """One stretch of origins; times are of its first and last target."""

    first_at: str
    last_at: str
    rows: int
    model: Mapping[str, float]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class StepAhead:
    """All origins, one step ahead or several."""

    step: int
    model: Mapping[str, float]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class Backtest:
    """Metrics beside the baseline's, by stretch of time and by steps ahead."""

    is_refitted: bool
    baseline: str
    folds: tuple[Fold, ...]
    steps: tuple[StepAhead, ...]


def run_backtest(
    measure: Measure, holdout: Part, predictions: FloatArray, baseline: tuple[str, FloatArray], folds: int = FOLDS
) -> Backtest | None:
    """Roll the origin through the hold-out; `predictions` and the named baseline are `(rows, steps ahead)`.

    There are `folds` stretches of as many origins, or fewer of at least ten. None where rows have no time.
    """
    times, ends = holdout.times, holdout.ends
    if times is None or ends is None:
        return None
    name, naive = baseline
    distinct = np.unique(times)
    count = max(1, min(folds, holdout.rows // MINIMUM_FOLD_ROWS, len(distinct)))
    found = []
    for chosen in np.array_split(distinct, count):
        rows = (times >= chosen[0]) & (times <= chosen[-1])
        found.append(
            Fold(
                first_at=str(times[rows].min()),
                last_at=str(ends[rows].max()),
                rows=int(rows.sum()),
                model=measure(holdout.targets[rows], predictions[rows]),
                baseline=measure(holdout.targets[rows], naive[rows]),
            )
        )
    steps = tuple(
        StepAhead(
            step=step + 1,
            model=measure(holdout.targets[:, [step]], predictions[:, [step]]),
            baseline=measure(holdout.targets[:, [step]], naive[:, [step]]),
        )
        for step in range(holdout.targets.shape[1])
    )
    return Backtest(is_refitted=False, baseline=name, folds=tuple(found), steps=steps)
