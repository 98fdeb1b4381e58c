"""Request codecs: parsed JSON -> the model's float32 input, checked against the contract.

A codec is named by a route of the contract. It knows no HTTP: it takes what a JSON parser gives and raises
RequestRejected with every fault named by its place in the request.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from core.contract import Column, Contract
from core.errors import Fault, RequestRejected, show_value

MAX_ROWS = 10_000
_MAX_FAULTS = 20
_LARGEST = float(np.finfo(np.float32).max)


def decode_request(contract: Contract, body: object) -> NDArray[np.float32]:
    """The input of our own prediction route: an object with either `values` or `rows`.

    Returns `(batch, steps, features)` or `(batch, features)`. Raises RequestRejected.
    """
    if not isinstance(body, dict):
        raise _rejected(contract, "body", body, "a JSON object with `values` or `rows` is expected")
    given = [name for name in CODECS if name in body]
    if len(given) != 1:
        raise _rejected(contract, "body", list(body), "exactly one of `values` and `rows` is expected")
    return CODECS[given[0]](contract, body[given[0]])


def decode_values(contract: Contract, values: object) -> NDArray[np.float32]:
    """One list of numbers `(steps,)`, or a list of such lists `(batch, steps)`, of a workload with one feature.

    For a tabular workload the numbers are one row in the order of the contract's features.
    """
    if not isinstance(values, list) or not values:
        size = len(_columns_of(contract))
        raise _rejected(contract, "values", values, f"a list of {size} numbers, or a list of such lists, is expected")
    many = isinstance(values[0], list)
    batch = values if many else [values]
    _check_batch(contract, "values", batch)
    if contract.kind == "sequence" and len(contract.features) > 1:
        raise _rejected(contract, "values", "a list", f"with {len(contract.features)} features only `rows` are read")
    columns = _columns_of(contract)
    size = len(columns)
    faults: list[Fault] = []
    cells: list[list[float]] = []
    for number, row in enumerate(batch):
        place = f"values[{number}]" if many else "values"
        if not isinstance(row, list) or len(row) != size:
            received = f"{len(row)} values" if isinstance(row, list) else show_value(row)
            faults.append(Fault(place, received, f"exactly {size} numbers are expected"))
            continue
        cells.append([_number(faults, f"{place}[{i}]", columns[i], value) for i, value in enumerate(row)])
        if len(faults) >= _MAX_FAULTS:
            break
    if faults:
        raise RequestRejected(contract.model, faults)
    return np.asarray(cells, dtype=np.float32).reshape(len(cells), *contract.input_shape)


def decode_rows(contract: Contract, rows: object) -> NDArray[np.float32]:
    """Rows as objects by column name.

    Tabular: one object, or a list of them. Sequence: the list of `steps` rows of one window, oldest first, or a list
    of such lists.
    """
    if isinstance(rows, dict) and contract.kind != "sequence":
        rows = [rows]
    if not isinstance(rows, list) or not rows:
        raise _rejected(contract, "rows", rows, "a list of objects with the contract's columns is expected")
    if contract.kind != "sequence":
        _check_batch(contract, "rows", rows)
        return _cells(contract, [(f"rows[{i}]", row) for i, row in enumerate(rows)], len(rows))
    many = isinstance(rows[0], list)
    batch = rows if many else [rows]
    _check_batch(contract, "rows", batch)
    placed: list[tuple[str, object]] = []
    for number, window in enumerate(batch):
        place = f"rows[{number}]" if many else "rows"
        if not isinstance(window, list) or len(window) != contract.steps:
            received = f"{len(window)} rows" if isinstance(window, list) else show_value(window)
            raise RequestRejected(contract.model, [Fault(place, received, f"exactly {contract.steps} are expected")])
        placed.extend((f"{place}[{i}]", row) for i, row in enumerate(window))
    return _cells(contract, placed, len(batch))


CODECS: dict[str, Callable[[Contract, object], NDArray[np.float32]]] = {"values": decode_values, "rows": decode_rows}


def check_inputs(contract: Contract, inputs: NDArray[np.float32]) -> None:
    """Check a decoded array `(batch, …)` that came from no codec of ours: shape, finite values, bounds.

    Raises RequestRejected.
    """
    if inputs.ndim != 1 + len(contract.input_shape) or inputs.shape[1:] != contract.input_shape:
        expected = ("batch", *contract.input_shape)
        raise _rejected(contract, "inputs", list(inputs.shape), f"the shape {list(expected)} is expected")
    faults: list[Fault] = []
    for position, name in enumerate(contract.features):
        column = contract.column(name)
        values = inputs[..., position]
        bad = ~np.isfinite(values)
        if column.minimum is not None:
            bad |= values < np.float32(column.minimum)
        if column.maximum is not None:
            bad |= values > np.float32(column.maximum)
        for place in np.argwhere(bad)[:_MAX_FAULTS]:
            value = float(values[tuple(place)])
            faults.append(Fault(f"inputs{place.tolist()} {name}", show_value(value), _allowed(column)))
    if faults:
        raise RequestRejected(contract.model, faults)


def _columns_of(contract: Contract) -> Sequence[Column]:
    if contract.kind == "sequence":
        return [contract.column(contract.features[0])] * contract.steps
    return [contract.column(name) for name in contract.features]


def _cells(contract: Contract, placed: Sequence[tuple[str, object]], batch: int) -> NDArray[np.float32]:
    columns = [contract.column(name) for name in contract.features]
    faults: list[Fault] = []
    cells: list[list[float]] = []
    for place, row in placed:
        if not isinstance(row, dict):
            faults.append(Fault(place, show_value(row), "an object with the contract's columns is expected"))
        else:
            missing = [column.name for column in columns if column.name not in row]
            faults.extend(Fault(f"{place}.{name}", "nothing", "this column is required") for name in missing)
            if not missing:
                cells.append([_number(faults, f"{place}.{c.name}", c, row[c.name]) for c in columns])
        if len(faults) >= _MAX_FAULTS:
            break
    if faults:
        raise RequestRejected(contract.model, faults)
    return np.asarray(cells, dtype=np.float32).reshape(batch, *contract.input_shape)


def _number(faults: list[Fault], place: str, column: Column, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        faults.append(Fault(place, show_value(value), _allowed(column)))
        return math.nan
    below = column.minimum is not None and value < column.minimum
    above = column.maximum is not None and value > column.maximum
    # What float32 cannot hold is not finite for the model; the comparison holds for integers of any length.
    if not abs(value) <= _LARGEST or below or above:
        faults.append(Fault(place, show_value(value), _allowed(column)))
        return math.nan
    return float(value)


def _allowed(column: Column) -> str:
    bounds = ""
    if column.minimum is not None or column.maximum is not None:
        low = "-∞" if column.minimum is None else f"{column.minimum:g}"
        high = "∞" if column.maximum is None else f"{column.maximum:g}"
        bounds = f" from {low} to {high}"
    return f"a finite number{bounds} is expected" + (f" ({column.name} in {column.unit})" if column.unit else "")


def _check_batch(contract: Contract, place: str, batch: Sequence[object]) -> None:
    if len(batch) > MAX_ROWS:
        raise _rejected(contract, place, f"{len(batch)} rows", f"at most {MAX_ROWS} at once are taken")


def _rejected(contract: Contract, place: str, value: object, rule: str) -> RequestRejected:
    return RequestRejected(contract.model, [Fault(place, show_value(value), rule)])
