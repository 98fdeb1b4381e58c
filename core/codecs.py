"""Request codecs: parsed JSON -> the model's float32 input, checked against the contract.

A codec is named by a route of the contract. It knows no HTTP: it takes what a JSON parser gives and raises
RequestRejected with every fault named by its place in the request.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.contract import Column, Contract
from core.errors import Fault, FaultKind, RequestRejected, show_value
from core.features import encode_history

MAX_ROWS = 10_000
_MAX_FAULTS = 20
_LARGEST = float(np.finfo(np.float32).max)
_NUMBER_TYPES = frozenset((int, float))
_ROW_TYPES = frozenset((list, tuple))


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
    """One row of the model's input as numbers, or a list of rows.

    A row is a list of numbers: of a series with one feature its `steps` values, of a table its values in the order of
    the contract's features. Of a series with several features it is a list of `steps` such lists.
    """
    if contract.kind == "sequence" and len(contract.features) > 1:
        return _decode_steps(contract, values)
    if not isinstance(values, list) or not values:
        size = len(_columns_of(contract))
        raise _rejected(contract, "values", values, f"a list of {size} numbers, or a list of such lists, is expected")
    if contract.kind == "ranking":
        raise _rejected(contract, "values", "a list", "of a ranking only `rows` are read, the items of one user")
    many = isinstance(values[0], list)
    batch = values if many else [values]
    _check_batch(contract, "values", batch)
    if (plain := _decode_plain(contract, batch, math.prod(contract.input_shape))) is not None:
        return plain
    placed = [(f"values[{number}]" if many else "values", row) for number, row in enumerate(batch)]
    return _name_faults(contract, placed, _columns_of(contract))


def decode_rows(contract: Contract, rows: object) -> NDArray[np.float32]:
    """Rows as objects by column name.

    Tabular: one object, or a list of them. Sequence: the list of `steps` rows of one window, oldest first, or a list
    of such lists. Ranking: the list of what one user has, oldest first, with item and strength; an item that the
    version does not know is left out.
    """
    if isinstance(rows, dict) and contract.kind != "sequence":
        rows = [rows]
    if not isinstance(rows, list) or not rows:
        raise _rejected(contract, "rows", rows, "a list of objects with the contract's columns is expected")
    if contract.kind == "ranking":
        return _decode_history(contract, rows)
    if contract.kind != "sequence":
        _check_batch(contract, "rows", rows)
        if (plain := _decode_objects(contract, rows)) is not None:
            return plain
        return _cells(contract, [(f"rows[{i}]", row) for i, row in enumerate(rows)], len(rows))
    many = isinstance(rows[0], list)
    batch = rows if many else [rows]
    _check_batch(contract, "rows", batch)
    if _are_sized(batch, contract.steps):
        plain = _decode_objects(contract, list(chain.from_iterable(batch)))
        if plain is not None:
            return plain
    placed: list[tuple[str, object]] = []
    for number, window in enumerate(batch):
        place = f"rows[{number}]" if many else "rows"
        if not isinstance(window, list) or len(window) != contract.steps:
            received = f"{len(window)} rows" if isinstance(window, list) else show_value(window)
            raise RequestRejected(contract.model, [Fault(place, received, f"exactly {contract.steps} are expected")])
        placed.extend((f"{place}[{i}]", row) for i, row in enumerate(window))
    return _cells(contract, placed, len(batch))


def _decode_history(contract: Contract, rows: Sequence[object]) -> NDArray[np.float32]:
    _check_batch(contract, "rows", rows)
    item, strength = (contract.column(name) for name in contract.features)
    faults: list[Fault] = []
    strengths: list[float] = []
    items: list[object] = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not {item.name, strength.name} <= set(row):
            wanted = f"an object with {item.name} and {strength.name} is expected"
            faults.append(Fault(f"rows[{number}]", show_value(row), wanted))
        else:
            value = row[item.name]
            if isinstance(value, bool) or not isinstance(value, int if item.dtype == "integer" else str):
                wanted = f"{'a whole number' if item.dtype == 'integer' else 'a text'} is expected"
                kind = _name_kind(item, value)
                faults.append(Fault(f"rows[{number}].{item.name}", show_value(value), wanted, item.name, kind))
            items.append(value)
            strengths.append(_number(faults, f"rows[{number}].{strength.name}", strength, row[strength.name]))
        if len(faults) >= _MAX_FAULTS:
            break
    if faults:
        raise RequestRejected(contract.model, faults)
    return encode_history(contract, items, strengths)[None]


def _decode_steps(contract: Contract, values: object) -> NDArray[np.float32]:
    """Windows of several features: `(steps, features)` numbers, or `(batch, steps, features)`."""
    size = len(contract.features)
    if not isinstance(values, list) or not values:
        rule = f"a list of {contract.steps} lists of {size} numbers, or a list of such lists, is expected"
        raise _rejected(contract, "values", values, rule)
    many = isinstance(values[0], list) and bool(values[0]) and isinstance(values[0][0], list)
    batch = values if many else [values]
    _check_batch(contract, "values", batch)
    if _are_sized(batch, contract.steps):
        plain = _decode_plain(contract, list(chain.from_iterable(batch)) if many else values, size)
        if plain is not None:
            return plain
    placed: list[tuple[str, object]] = []
    for number, window in enumerate(batch):
        place = f"values[{number}]" if many else "values"
        if not isinstance(window, list) or len(window) != contract.steps:
            received = f"{len(window)} steps" if isinstance(window, list) else show_value(window)
            raise RequestRejected(contract.model, [Fault(place, received, f"exactly {contract.steps} are expected")])
        placed.extend((f"{place}[{i}]", row) for i, row in enumerate(window))
    return _name_faults(contract, placed, [contract.column(name) for name in contract.features])


def _name_faults(
    contract: Contract, placed: Sequence[tuple[str, object]], columns: Sequence[Column]
) -> NDArray[np.float32]:
    """The input that lists of cells say, looked at cell by cell, each under the place that its fault is named by."""
    size = len(columns)
    faults: list[Fault] = []
    cells: list[list[float]] = []
    for place, row in placed:
        if not isinstance(row, list) or len(row) != size:
            received = f"{len(row)} values" if isinstance(row, list) else show_value(row)
            faults.append(Fault(place, received, f"exactly {size} numbers are expected"))
        else:
            cells.append([_cell(contract, faults, f"{place}[{i}]", columns[i], value) for i, value in enumerate(row)])
        if len(faults) >= _MAX_FAULTS:
            break
    if faults:
        raise RequestRejected(contract.model, faults)
    return np.asarray(cells, dtype=np.float32).reshape(-1, *contract.input_shape)


def decode_row(contract: Contract, row: object) -> NDArray[np.float32]:
    """One row `(1, features)` as an object by column name; other members are left out."""
    if not isinstance(row, dict):
        raise _rejected(contract, "body", row, "a JSON object with the contract's columns is expected")
    return _cells(contract, [("body", row)], 1)


CODECS: dict[str, Callable[[Contract, object], NDArray[np.float32]]] = {"values": decode_values, "rows": decode_rows}


def check_inputs(contract: Contract, inputs: NDArray[np.float32]) -> None:
    """Check a decoded array `(batch, …)` that came from no codec of ours: shape, finite values, bounds.

    Raises RequestRejected.
    """
    if inputs.ndim != 1 + len(contract.input_shape) or inputs.shape[1:] != contract.input_shape:
        expected = ("batch", *contract.input_shape)
        raise _rejected(contract, "inputs", list(inputs.shape), f"the shape {list(expected)} is expected")
    faults: list[Fault] = []
    if contract.kind == "ranking":
        _check_history(contract, inputs)
        return
    for position, name in enumerate(contract.features):
        column = contract.column(name)
        values = inputs[..., position]
        bad = ~np.isfinite(values)
        if column.imputation is not None:
            bad &= ~np.isnan(values)
        if column.dtype == "text":
            bad |= ~np.isin(values, np.arange(len(contract.vocabularies.get(name, ())) + 1))
        if column.minimum is not None:
            bad |= values < np.float32(column.minimum)
        if column.maximum is not None:
            bad |= values > np.float32(column.maximum)
        for place in np.argwhere(bad)[:_MAX_FAULTS]:
            value = float(values[tuple(place)])
            kind = _name_kind(column, value)
            faults.append(Fault(f"inputs{place.tolist()} {name}", show_value(value), _allowed(column), name, kind))
    if faults:
        raise RequestRejected(contract.model, faults)


def _check_history(contract: Contract, inputs: NDArray[np.float32]) -> None:
    """Codes are of known items or 0, and a strength lies within its bounds where there is an item."""
    item, strength = (contract.column(name) for name in contract.features)
    codes, values = inputs[..., 0], inputs[..., 1]
    known = len(contract.vocabularies.get(item.name, ()))
    low = -np.inf if strength.minimum is None else np.float32(strength.minimum)
    high = np.inf if strength.maximum is None else np.float32(strength.maximum)
    is_code = np.isin(codes, np.arange(known + 1))
    is_strength = np.isfinite(values) & ((codes == 0) | ((values >= low) & (values <= high)))
    checks = ((codes, is_code, f"the code of an item, 1 to {known}, or 0 for none is expected"),)
    faults = [
        Fault(
            f"inputs{place.tolist()} {column.name}",
            show_value(float(given[tuple(place)])),
            allowed,
            column.name,
            _name_kind(column, float(given[tuple(place)])),
        )
        for column, (given, is_good, allowed) in zip(
            (item, strength), (*checks, (values, is_strength, _allowed(strength))), strict=True
        )
        for place in np.argwhere(~is_good)[:_MAX_FAULTS]
    ]
    if faults:
        raise RequestRejected(contract.model, faults)


def _decode_plain(contract: Contract, rows: Sequence[Any], size: int) -> NDArray[np.float32] | None:
    """The input that `rows` say, each a list or tuple of `size` cells, if every cell is a number that is allowed.

    None where one is not, or may not be: then the cells are looked at one by one, which names each fault. Whole arrays
    at once, because a look at every cell in Python takes longer than the model does.
    """
    if not contract.has_plain_features or not _are_sized(rows, size):
        return None
    cells = list(chain.from_iterable(rows))
    if not _NUMBER_TYPES.issuperset(map(type, cells)):
        return None
    try:
        values = np.array(cells, dtype=np.float64)
    except OverflowError:
        # An integer beyond a double.
        return None
    bounds = contract.input_bounds
    rows_of_input = values.reshape(-1, len(bounds.least))
    # Written so that a NaN fails.
    is_allowed = (rows_of_input >= bounds.least) & (rows_of_input <= bounds.most)
    if not np.logical_and.reduce(is_allowed, axis=None):
        return None
    return values.astype(np.float32).reshape(-1, *contract.input_shape)


def _are_sized(rows: Sequence[Any], size: int) -> bool:
    """Whether every row is a list or tuple of `size`."""
    return _ROW_TYPES.issuperset(map(type, rows)) and set(map(len, rows)) == {size}


def _decode_objects(contract: Contract, rows: Sequence[Any]) -> NDArray[np.float32] | None:
    """The same for rows as objects by column name."""
    names = contract.features
    if set(map(type, rows)) != {dict}:
        return None
    take = itemgetter(*names)
    try:
        cells = [take(row) for row in rows]
    except KeyError:
        return None
    # Of one name, an itemgetter gives the value itself.
    return _decode_plain(contract, [(cell,) for cell in cells] if len(names) == 1 else cells, len(names))


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
            faults.extend(
                Fault(f"{place}.{name}", "nothing", "this column is required", name, "absent") for name in missing
            )
            if not missing:
                cells.append([_cell(contract, faults, f"{place}.{c.name}", c, row[c.name]) for c in columns])
        if len(faults) >= _MAX_FAULTS:
            break
    if faults:
        raise RequestRejected(contract.model, faults)
    return np.asarray(cells, dtype=np.float32).reshape(batch, *contract.input_shape)


def _cell(contract: Contract, faults: list[Fault], place: str, column: Column, value: object) -> float:
    """A cell as the model takes it: text as its code, a boolean as 0 or 1, an absent number as NaN."""
    if column.dtype == "text":
        if isinstance(value, str) and (not column.allowed or value in column.allowed):
            return float(contract.codes[column.name].get(value, 0))
        if value is None and column.is_nullable:
            return 0.0
    elif value is None and column.imputation is not None:
        return math.nan
    elif column.dtype == "boolean":
        if isinstance(value, bool):
            return float(value)
    else:
        return _number(faults, place, column, value)
    return _refuse(faults, place, column, value)


def _number(faults: list[Fault], place: str, column: Column, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _refuse(faults, place, column, value)
    if column.dtype == "integer" and isinstance(value, float) and not value.is_integer():
        return _refuse(faults, place, column, value)
    below = column.minimum is not None and value < column.minimum
    above = column.maximum is not None and value > column.maximum
    # What float32 cannot hold is not finite for the model; the comparison holds for integers of any length.
    if not abs(value) <= _LARGEST or below or above:
        return _refuse(faults, place, column, value)
    return float(value)


def _refuse(faults: list[Fault], place: str, column: Column, value: object) -> float:
    faults.append(Fault(place, show_value(value), _allowed(column), column.name, _name_kind(column, value)))
    return math.nan


def _name_kind(column: Column, value: object) -> FaultKind:
    """The sort of fault that a refused value of the column has."""
    if value is None:
        return "absent"
    if column.dtype == "text":
        return "category" if isinstance(value, str | float) else "type"
    if column.dtype == "boolean" or isinstance(value, bool) or not isinstance(value, int | float):
        return "type"
    if isinstance(value, float) and not math.isfinite(value):
        return "not_finite"
    if column.dtype == "integer" and isinstance(value, float) and not value.is_integer():
        return "type"
    return "bounds"


def _allowed(column: Column) -> str:
    bounds = ""
    if column.minimum is not None or column.maximum is not None:
        low = "-∞" if column.minimum is None else f"{column.minimum:g}"
        high = "∞" if column.maximum is None else f"{column.maximum:g}"
        bounds = f" from {low} to {high}"
    if column.dtype == "text":
        return f"one of {', '.join(column.allowed)} is expected" if column.allowed else "a text is expected"
    if column.dtype == "boolean":
        return "true or false is expected"
    what = "a whole number" if column.dtype == "integer" else "a finite number"
    return f"{what}{bounds} is expected" + (f" ({column.name} in {column.unit})" if column.unit else "")


def _check_batch(contract: Contract, place: str, batch: Sequence[object]) -> None:
    if len(batch) > MAX_ROWS:
        raise _rejected(contract, place, f"{len(batch)} rows", f"at most {MAX_ROWS} at once are taken")


def _rejected(contract: Contract, place: str, value: object, rule: str) -> RequestRejected:
    return RequestRejected(contract.model, [Fault(place, show_value(value), rule)])
