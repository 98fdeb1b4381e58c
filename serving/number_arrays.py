"""Numbers as other protocols bring them, whole tensors or one list a feature, made the model's float32 input."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from core.codecs import MAX_ROWS, check_inputs, decode_rows
from core.contract import Contract
from core.errors import Fault, RequestRejected, show_value

INPUT_NAME = "inputs"
OUTPUT_NAME = "outputs"
"""What the whole tensors of every model are called; a version's contract says their shapes."""

_NUMBERS = {int, float, bool}
MAX_DIMENSIONS = 8
MAX_FAULTS = 20
"""Faults that are named at once; the first of them tells what is wrong."""


def reject(contract: Contract, where: str, value: object, rule: str) -> RequestRejected:
    """The error for one fault; `value` is shown as it is if it is text that describes, else in its literal form."""
    return RequestRejected(contract.model, [Fault(where, value if isinstance(value, str) else show_value(value), rule)])


def flatten(contract: Contract, where: str, nested: object) -> tuple[list[object], tuple[int, ...]]:
    """The values of nested lists in row-major order, and the shape of the lists; raises RequestRejected if ragged."""
    if not isinstance(nested, list):
        raise reject(contract, where, show_value(nested), "a list is expected")
    level: list[object] = nested
    shape = [len(level)]
    while level and isinstance(level[0], list):
        if len(shape) == MAX_DIMENSIONS:
            raise reject(contract, where, "deeper lists", f"at most {MAX_DIMENSIONS} lists in one another are taken")
        size = len(level[0])
        for number, part in enumerate(level):
            if not isinstance(part, list) or len(part) != size:
                place = where + _index(number, shape)
                received = f"a list of {len(part)}" if isinstance(part, list) else show_value(part)
                raise reject(contract, place, received, f"a list of {size} is expected, as at the beginning")
        level = list(chain.from_iterable(part for part in level if isinstance(part, list)))
        shape.append(size)
    return level, tuple(shape)


def read_numbers(contract: Contract, where: str, nested: object, column: str = "") -> NDArray[np.float64]:
    """Nested lists of numbers as an array of their shape; true and false are 1 and 0. Raises RequestRejected.

    A fault is counted as one of `column`, where there is one.
    """
    values, shape = flatten(contract, where, nested)
    if not set(map(type, values)) <= _NUMBERS:
        bad = (at for at, value in enumerate(values) if type(value) not in _NUMBERS)
        faults = [
            Fault(
                where + _index(at, shape),
                show_value(values[at]),
                "a finite number is expected",
                column,
                "form" if not column else "absent" if values[at] is None else "type",
            )
            for at, _ in zip(bad, range(MAX_FAULTS), strict=False)
        ]
        raise RequestRejected(contract.model, faults)
    return np.array(values, dtype=np.float64).reshape(shape)


def build_tensor(contract: Contract, values: NDArray[np.generic]) -> NDArray[np.float32]:
    """A whole tensor `(batch, *input_shape)` as the checked input; raises RequestRejected."""
    if values.ndim and not 1 <= len(values) <= MAX_ROWS:
        raise reject(contract, INPUT_NAME, f"{len(values)} rows", f"from 1 to {MAX_ROWS} at once are taken")
    # What float32 cannot hold becomes infinite, and is refused by its place.
    with np.errstate(over="ignore"):
        inputs = np.ascontiguousarray(values, dtype=np.float32)
    check_inputs(contract, inputs)
    return inputs


def build_named(contract: Contract, columns: Mapping[str, Sequence[object]]) -> NDArray[np.float32]:
    """Tabular rows given as one list of cells `(batch,)` a feature, with or without further columns.

    Numbers are the model's own columns. Where text is among them, the rows are read as our own route reads them.
    Raises RequestRejected.
    """
    if contract.kind != "tabular":
        rule = f"a {contract.kind} is sent as the tensor {INPUT_NAME} of shape {_show_shape(contract)}"
        raise reject(contract, "inputs", f"columns {show_value(list(columns))}", rule)
    missing = [name for name in contract.features if name not in columns]
    if missing:
        rule = "this column is required"
        raise RequestRejected(contract.model, [Fault(name, "nothing", rule, name, "absent") for name in missing])
    used = {name: columns[name] for name in contract.features}
    sizes = {name: len(cells) for name, cells in used.items()}
    rows = max(sizes.values())
    for name, size in sizes.items():
        if size != rows:
            raise reject(contract, name, f"{size} rows", f"{rows} are expected, as in the other columns")
    if rows > MAX_ROWS:
        raise reject(contract, INPUT_NAME, f"{rows} rows", f"from 1 to {MAX_ROWS} at once are taken")
    if any(isinstance(cell, str) for cells in used.values() for cell in cells):
        return decode_rows(contract, [dict(zip(used, row, strict=True)) for row in zip(*used.values(), strict=True)])
    arrays = [_read_column(contract, name, cells) for name, cells in used.items()]
    return build_tensor(contract, np.stack(arrays, axis=1))


def _read_column(contract: Contract, name: str, cells: Sequence[object]) -> NDArray[np.float64]:
    values = read_numbers(contract, name, list(cells), name)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise reject(contract, name, f"cells of shape {list(values.shape[1:])}", "one number a row is expected")
    return values


def _show_shape(contract: Contract) -> str:
    return str([-1, *contract.input_shape])


def _index(at: int, shape: Sequence[int]) -> str:
    """The place of the `at`-th value of row-major lists of that shape, as in `[2][0]`."""
    return "".join(f"[{int(part)}]" for part in np.unravel_index(at, tuple(shape)))
