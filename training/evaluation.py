"""Metrics of predictions by task, and for each metric that can decide the loss of every row.

Targets and predictions are `(rows, outputs)`: values in the target's unit, or probabilities. Several steps ahead count
alike.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from core.contract import Contract, Task
from core.errors import ParameterRejected

FloatArray = NDArray[np.float64]
Loss = Callable[[FloatArray, FloatArray], FloatArray]

SMALLEST_DENOMINATOR = 1e-8
"""The percentage error divides by no smaller magnitude than this."""
SMALLEST_PROBABILITY = 1e-7
"""The logarithmic loss takes no probability for smaller than this."""


def absolute_errors(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """|prediction - target| per row `(rows,)`."""
    return _average(np.abs(predictions - targets))


def squared_errors(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """(prediction - target)² per row `(rows,)`."""
    return _average(np.square(predictions - targets))


def percentage_errors(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """100 |prediction - target| / |target| per row `(rows,)`, the denominator clamped away from zero."""
    return _average(100.0 * np.abs(predictions - targets) / np.maximum(np.abs(targets), SMALLEST_DENOMINATOR))


def log_losses(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """Minus the logarithm of the probability of what came, per row `(rows,)`."""
    probability = np.clip(predictions, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)
    if targets.shape[1] == 1:
        came = np.where(targets > 0.5, probability, 1.0 - probability)
    else:
        came = (targets * probability).sum(axis=1, keepdims=True)
    return np.asarray(-np.log(came))[:, 0]


def brier_losses(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """Squared distance of the probabilities from what came, summed over classes, per row `(rows,)`."""
    return np.asarray(np.square(predictions - targets).sum(axis=1))


LOSSES: Mapping[Task, Mapping[str, Loss]] = {
    "regression": {"mae": absolute_errors, "rmse": squared_errors, "mape": percentage_errors},
    "binary": {"log_loss": log_losses, "brier": brier_losses},
    "multiclass": {"log_loss": log_losses, "brier": brier_losses},
}
"""The loss per row whose mean orders models as the metric of that name does."""


def compute_losses(contract: Contract, metric: str, targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """The losses `(rows,)` of the metric; raises ParameterRejected for one that cannot decide."""
    known = LOSSES[contract.task]
    if metric not in known:
        raise ParameterRejected("metric", metric, f"of a {contract.task} task {', '.join(known)} can decide")
    return known[metric](targets, predictions)


def measure(contract: Contract, targets: FloatArray, predictions: FloatArray) -> dict[str, float]:
    """The task's metrics by name. What is not defined for these rows (one class alone, no spread) is left out."""
    return _MEASURES[contract.task](targets, predictions)


def measure_errors(targets: FloatArray, predictions: FloatArray) -> dict[str, float]:
    """MAE and RMSE in the target's unit, MAPE in percent, and R² where the targets differ."""
    errors = {
        "mae": float(absolute_errors(targets, predictions).mean()),
        "rmse": float(np.sqrt(squared_errors(targets, predictions).mean())),
        "mape": float(percentage_errors(targets, predictions).mean()),
    }
    if len(targets) > 1 and (np.ptp(targets, axis=0) > 0).all():
        errors["r2"] = float(metrics.r2_score(targets, predictions))
    return errors


def _measure_binary(targets: FloatArray, predictions: FloatArray) -> dict[str, float]:
    found = {
        "log_loss": float(log_losses(targets, predictions).mean()),
        "brier": float(brier_losses(targets, predictions).mean()),
    }
    if 0.0 < targets.mean() < 1.0:
        found["pr_auc"] = float(metrics.average_precision_score(targets[:, 0], predictions[:, 0]))
        found["roc_auc"] = float(metrics.roc_auc_score(targets[:, 0], predictions[:, 0]))
    return found


def _measure_multiclass(targets: FloatArray, predictions: FloatArray) -> dict[str, float]:
    came, said = targets.argmax(axis=1), predictions.argmax(axis=1)
    return {
        "log_loss": float(log_losses(targets, predictions).mean()),
        "brier": float(brier_losses(targets, predictions).mean()),
        "accuracy": float(metrics.accuracy_score(came, said)),
        "macro_f1": float(metrics.f1_score(came, said, average="macro", zero_division=0.0)),
    }


def _average(errors: FloatArray) -> FloatArray:
    return np.asarray(errors.mean(axis=tuple(range(1, errors.ndim))))


_MEASURES: Mapping[Task, Callable[[FloatArray, FloatArray], dict[str, float]]] = {
    "regression": measure_errors,
    "binary": _measure_binary,
    "multiclass": _measure_multiclass,
}
