"""Errors of predictions, in the target's unit, beside the baseline's."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SMALLEST_DENOMINATOR = 1e-8
"""The percentage error divides by no smaller magnitude than this."""


def absolute_errors(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """|prediction - target| per row `(rows,)`."""
    return np.asarray(np.abs(predictions - targets))


def squared_errors(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """(prediction - target)² per row `(rows,)`."""
    return np.asarray(np.square(predictions - targets))


def percentage_errors(targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """100 |prediction - target| / |target| per row `(rows,)`, the denominator clamped away from zero."""
    return np.asarray(100.0 * np.abs(predictions - targets) / np.maximum(np.abs(targets), SMALLEST_DENOMINATOR))


LOSSES: Mapping[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "mae": absolute_errors,
    "rmse": squared_errors,
    "mape": percentage_errors,
}
"""The loss per row whose mean orders models as the metric of that name does."""


def measure_errors(targets: FloatArray, predictions: FloatArray) -> dict[str, float]:
    """MAE and RMSE in the target's unit, MAPE in percent."""
    return {
        "mae": float(absolute_errors(targets, predictions).mean()),
        "rmse": float(np.sqrt(squared_errors(targets, predictions).mean())),
        "mape": float(percentage_errors(targets, predictions).mean()),
    }
