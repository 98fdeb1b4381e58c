"""The scorecard of a version: its metrics on the hold-out with their uncertainty, beside the baselines'."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from core.bootstrap import bootstrap_mean_interval, bootstrap_metric_intervals, choose_row_blocks
from core.contract import Contract
from training.backtest import Backtest, run_backtest
from training.calibration import Calibration, measure_calibration
from training.kinds import Kind, get_kind
from training.parts import FloatArray, Part, Parts
from training.slices import find_slice
from workloads.declaration import Workload

Intervals = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Improvement:
    """By how much the model's mean loss is below the baseline's, and the paired interval of that."""

    baseline: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SliceScore:
    """Metrics on the hold-out's rows of one slice; none where it has no row there."""

    name: str
    rows: int
    model: Mapping[str, float]
    intervals: Intervals
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class Scorecard:
    """What is known of a version's predictions on its hold-out.

    `metric` is the one that the gate decides by; intervals have the level `confidence`; the first baseline is the one
    that the gate asks for. `calibration` is that of a classifier, `backtest` that of a series.
    """

    metric: str
    confidence: float
    model: Mapping[str, float]
    intervals: Intervals
    baselines: Mapping[str, Mapping[str, float]]
    improvement: Improvement
    slices: tuple[SliceScore, ...]
    calibration: Calibration | None
    backtest: Backtest | None

    def to_document(self) -> dict[str, object]:
        """As it stands in a version's `evaluation.json`."""
        return asdict(self)

    def to_metrics(self) -> dict[str, float]:
        """As MLflow shows it: numbers by name."""
        found = {f"holdout_{name}": value for name, value in self.model.items()}
        for name, (low, high) in self.intervals.items():
            found |= {f"holdout_{name}_low": low, f"holdout_{name}_high": high}
        for baseline, measured in self.baselines.items():
            found |= {f"{baseline}_{name}": value for name, value in measured.items()}
        first = self.baselines[self.improvement.baseline]
        found |= {f"{name}_ratio": self.model[name] / value for name, value in first.items() if value}
        for one in self.slices:
            found |= {f"slice_{one.name}_{name}": value for name, value in one.model.items()}
        if self.calibration is not None:
            found["holdout_calibration_error"] = self.calibration.expected_error
        return found


def build_scorecard(
    workload: Workload,
    contract: Contract,
    parts: Parts,
    predictions: FloatArray,
    baselines: Mapping[str, FloatArray],
    *,
    seed: int,
) -> Scorecard:
    """Measure `predictions` and those of each baseline `(rows, outputs)` on the hold-out.

    Series are resampled in moving blocks, other rows one by one.
    """
    kind, holdout, policy = get_kind(contract), parts.holdout, workload.gate
    name, first = next(iter(baselines.items()))

    def measure(targets: FloatArray, predicted: FloatArray) -> Mapping[str, float]:
        return kind.measure(contract, targets, predicted)

    losses = [
        kind.compute_losses(contract, policy.metric, holdout.targets, predicted) for predicted in (first, predictions)
    ]
    differences = losses[0] - losses[1]
    low, high = bootstrap_mean_interval(
        differences, confidence=policy.confidence, block_length=choose_row_blocks(holdout.times), seed=seed
    )
    slices = []
    for chosen in workload.slices:
        rows = find_slice(contract, holdout, chosen)
        part = holdout.take(rows)
        slices.append(_score_slice(workload, contract, chosen.name, part, predictions[rows], first[rows], seed))
    return Scorecard(
        metric=policy.metric,
        confidence=policy.confidence,
        model=measure(holdout.targets, predictions),
        intervals=_find_intervals(kind, contract, holdout, predictions, policy.confidence, seed),
        baselines={baseline: measure(holdout.targets, predicted) for baseline, predicted in baselines.items()},
        improvement=Improvement(name, float(differences.mean()), low, high),
        slices=tuple(slices),
        calibration=None if contract.task == "regression" else measure_calibration(holdout.targets, predictions),
        backtest=run_backtest(measure, holdout, predictions, (name, first)) if contract.kind == "sequence" else None,
    )


def _find_intervals(
    kind: Kind, contract: Contract, part: Part, predictions: FloatArray, confidence: float, seed: int
) -> Intervals:
    by_row = None if kind.measure_rows is None else kind.measure_rows(contract, part.targets, predictions)

    def measure_some(rows: NDArray[np.int64]) -> Mapping[str, float]:
        if by_row is not None:
            return {name: float(values[rows].mean()) for name, values in by_row.items()}
        return kind.measure(contract, part.targets[rows], predictions[rows])

    return bootstrap_metric_intervals(
        measure_some, part.rows, confidence=confidence, block_length=choose_row_blocks(part.times), seed=seed
    )


def _score_slice(
    workload: Workload,
    contract: Contract,
    name: str,
    part: Part,
    predictions: FloatArray,
    baseline: FloatArray,
    seed: int,
) -> SliceScore:
    if not part.rows:
        return SliceScore(name, 0, {}, {}, {})
    kind = get_kind(contract)
    return SliceScore(
        name=name,
        rows=part.rows,
        model=kind.measure(contract, part.targets, predictions),
        intervals=_find_intervals(kind, contract, part, predictions, workload.gate.confidence, seed),
        baseline=kind.measure(contract, part.targets, baseline),
    )
