"""Features from rows: the one implementation that training and serving share."""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from core.contract import Contract, Monitored

FloatArray = NDArray[np.float64]

PREDICTION = "prediction"
"""Name under which what a model answers is counted beside the monitored features."""


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


def encode_history(contract: Contract, items: Sequence[object], strengths: Sequence[float]) -> NDArray[np.float32]:
    """What one user has `(items,)`, oldest first, as a ranking takes it: `(steps, 2)`, code and strength.

    Of several interactions with an item the last counts. Items that the version does not know are left out, and of more
    than `steps` the oldest.
    """
    codes = contract.codes[contract.features[0]]
    known: dict[int, float] = {}
    for item, strength in zip(items, strengths, strict=True):
        code = codes.get(str(item))
        if code is not None:
            known.pop(code, None)
            known[code] = strength
    latest = list(known.items())[-contract.steps :]
    history = np.zeros(contract.input_shape, dtype=np.float32)
    if latest:
        history[: len(latest)] = latest
    return history


def build_monitored(contract: Contract, inputs: NDArray[np.float32]) -> FloatArray:
    """The monitored features of a batch: `(batch, steps, features)` or `(batch, features)` -> `(batch, monitored)`."""
    positions = contract.monitored_positions
    if positions is not None:
        # One step for all: this is part of every answer.
        rows = inputs if inputs.ndim == 2 else inputs[:, -1]
        return rows.take(positions, axis=1).astype(np.float64)
    built = np.empty((len(inputs), len(contract.monitored)))
    for position, monitored in enumerate(contract.monitored):
        built[:, position] = _transform(monitored, contract.features, inputs)
    return built


def _transform(monitored: Monitored, features: Sequence[str], inputs: NDArray[np.float32]) -> FloatArray:
    position = features.index(monitored.column)
    match monitored.transform:
        case "value":
            return inputs[:, position].astype(np.float64)
        case "last_value":
            return inputs[:, -1, position].astype(np.float64)
        case "last_log_return":
            last = inputs[:, -2:, position].astype(np.float64)
            return np.asarray(np.log(last[:, 1] / last[:, 0]))
        case "mean_of_history":
            is_there = inputs[..., 0] > 0
            sums = np.where(is_there, inputs[..., position], 0.0).astype(np.float64).sum(axis=1)
            return np.asarray(sums / np.maximum(is_there.sum(axis=1), 1))


def build_prediction(contract: Contract, inputs: NDArray[np.float32], outputs: NDArray[np.floating]) -> FloatArray:
    """What is watched of the answers `(batch, outputs)` to `inputs (batch, …)`: one number a row, `(batch,)`.

    The first step of a regression, as the log return on the last step where that is how the target is monitored; the
    probability of a binary classifier, the most probable class of one with more, a ranking's best score.
    """
    if contract.ranking is not None:
        return np.asarray(outputs[:, outputs.shape[1] // 2], dtype=np.float64)
    if contract.task == "multiclass":
        return np.asarray(np.argmax(outputs, axis=1), dtype=np.float64)
    first: FloatArray = np.asarray(outputs[:, 0], dtype=np.float64)
    if is_watched_as_return(contract):
        last = inputs[:, -1, contract.features.index(contract.target)].astype(np.float64)
        # A return needs a price above 0; what is none is far below all others.
        return np.asarray(np.log(np.maximum(first, float(np.finfo(np.float32).tiny)) / last), dtype=np.float64)
    return first


def is_watched_as_return(contract: Contract) -> bool:
    """Whether the target is monitored as a return, so that predictions have to be too: levels always drift."""
    return any(m.column == contract.target and m.transform == "last_log_return" for m in contract.monitored)


def list_category_columns(contract: Contract) -> frozenset[str]:
    """The names of what is monitored and is a category and no number, the prediction among them."""
    names = {m.name for m in contract.monitored if contract.column(m.column).dtype in ("text", "boolean")}
    return frozenset(names | ({PREDICTION} if contract.task == "multiclass" else set()))
