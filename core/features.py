"""Features from rows: the one implementation that training and serving share."""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from core.contract import Contract, Monitored

FloatArray = NDArray[np.float64]


def build_windows(series: FloatArray, steps: int, horizon: int = 1) -> tuple[FloatArray, NDArray[np.int64]]:
    """Every window of `steps` rows that is followed by a target `horizon` rows later.

    `series` is `(rows, features)` in time order. Returns the windows `(windows, steps, features)` as a read-only
    view, and for each the row number of its target `(windows,)`.
    """
    windows = max(len(series) - steps - horizon + 1, 0)
    targets = np.arange(windows, dtype=np.int64) + steps + horizon - 1
    if windows == 0:
        return np.empty((0, steps, series.shape[1])), targets
    view = sliding_window_view(series, steps, axis=0)[:windows]
    return np.moveaxis(view, -1, 1), targets


def build_monitored(contract: Contract, inputs: NDArray[np.float32]) -> FloatArray:
    """The monitored features of a batch: `(batch, steps, features)` or `(batch, features)` -> `(batch, monitored)`."""
    columns = [_transform(monitored, contract.features, inputs) for monitored in contract.monitored]
    return np.stack(columns, axis=1) if columns else np.empty((len(inputs), 0))


def _transform(monitored: Monitored, features: Sequence[str], inputs: NDArray[np.float32]) -> FloatArray:
    values = inputs[..., features.index(monitored.column)].astype(np.float64)
    match monitored.transform:
        case "value":
            return values
        case "last_value":
            return np.asarray(values[:, -1])
        case "last_log_return":
            return np.asarray(np.log(values[:, -1] / values[:, -2]))
