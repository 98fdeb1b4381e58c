"""Checks of sanity: whether rows are such as can be learnt from, and predictions such as can be answered at all."""

import numpy as np
from numpy.typing import NDArray

from core.contract import Column, Contract
from core.verdicts import Check
from training.parts import Columns, FloatArray, Mask

_PROBABILITY_TOLERANCE = 1e-4


def check_predictions(contract: Contract, targets: FloatArray, predictions: FloatArray) -> Check:
    """Whether predictions `(rows, outputs)` are finite, in range and not all the same while the targets differ.

    The range is the target's bounds; 0 to 1 for probabilities, which add up to 1 over several classes.
    """
    if contract.task == "regression":
        target = contract.column(contract.target)
        low = -np.inf if target.minimum is None else target.minimum
        high = np.inf if target.maximum is None else target.maximum
    else:
        low, high = 0.0, 1.0
    good = np.isfinite(predictions) & (predictions >= low) & (predictions <= high)
    rows = np.asarray(good.all(axis=1))
    if contract.task == "multiclass":
        rows &= np.abs(predictions.sum(axis=1) - 1.0) <= _PROBABILITY_TOLERANCE
    share = float(rows.mean()) if len(rows) else 0.0
    is_constant = len(rows) > 1 and _is_constant(predictions[rows]) and not _is_constant(targets)
    if share < 1.0:
        kind = f"not within {low:g} to {high:g}" + (", or do not add up to 1" if contract.task == "multiclass" else "")
        reason = f"{1 - share:.1%} of the predictions are not finite or {kind}"
    elif is_constant:
        reason = "every prediction is the same number while the targets differ"
    else:
        reason = "every prediction is finite, in range, and they differ"
    return Check("sanity", share == 1.0 and not is_constant, share, 1.0, reason)


def _is_constant(values: FloatArray) -> bool:
    return not len(values) or bool((np.ptp(values, axis=0) == 0).all())


def check_rows(contract: Contract, columns: Columns) -> Check:
    """Whether every stored row of the snapshot still is what the contract asks of it.

    Rows are checked when they come in; a contract that has been made stricter since finds those that came before.
    """
    is_valid = np.ones(len(columns[contract.target]), dtype=np.bool_)
    faulty = []
    for column in contract.columns:
        if column.name not in columns:
            continue
        is_right = _find_right(column, columns[column.name])
        if not is_right.all():
            faulty.append(column.name)
        is_valid &= is_right
    share = float(is_valid.mean()) if len(is_valid) else 0.0
    reason = f"{len(is_valid)} rows of the snapshot are as the contract asks"
    if share < 1.0:
        reason = f"{1 - share:.2%} of {len(is_valid)} rows are missing or out of bounds in {', '.join(faulty)}"
    return Check("valid", bool(len(is_valid)) and share == 1.0, share, 1.0, reason)


def _find_right(column: Column, values: NDArray[np.generic]) -> Mask:
    if column.dtype in ("float", "integer"):
        numbers = values.astype(np.float64)
        is_absent = np.isnan(numbers)
        low = -np.inf if column.minimum is None else column.minimum
        high = np.inf if column.maximum is None else column.maximum
        is_right = np.isfinite(numbers) & (numbers >= low) & (numbers <= high)
    elif column.dtype == "time":
        is_absent = np.isnat(values.astype("datetime64[us]"))
        is_right = ~is_absent
    else:
        is_absent = np.array([value is None for value in values.tolist()], dtype=np.bool_)
        is_right = ~is_absent
        if column.allowed:
            is_right &= np.isin(values.astype(np.str_), column.allowed)
    return np.asarray(is_right | (is_absent & column.is_nullable))
