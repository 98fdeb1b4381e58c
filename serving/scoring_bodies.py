"""Bodies of MLflow's scoring protocol, made the model's input.

Source of the forms: `mlflow.pyfunc.scoring_server`, MLflow 3. A signature of ours is one tensor without a name, so a
table is either one column of lists, each a flattened row of the tensor, or, for a tabular model, a column a feature.
Columns are taken by name where they have the features' names, else by position as MLflow takes them.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from core.codecs import MAX_ROWS
from core.contract import Contract
from core.errors import show_value
from serving.number_arrays import INPUT_NAME, build_named, build_tensor, read_numbers, reject

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
Cells = Sequence[object]


def decode_scoring(contract: Contract, body: object) -> NDArray[np.float32]:
    """The input in a JSON body with one of the protocol's forms; other members are ignored, as MLflow does.

    Raises RequestRejected.
    """
    given = [name for name in _FORMS if isinstance(body, dict) and name in body]
    if not isinstance(body, dict) or len(given) != 1:
        received = show_value(list(body) if isinstance(body, dict) else body)
        raise reject(contract, "body", received, f"a JSON object with exactly one of {', '.join(_FORMS)} is expected")
    form = given[0]
    content = body[form]
    if form == "dataframe_split":
        return _decode_split(contract, content)
    if form == "dataframe_records":
        return _decode_records(contract, form, content)
    if isinstance(content, dict):
        return _decode_named(contract, content)
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return _decode_records(contract, form, content)
    return build_tensor(contract, read_numbers(contract, form, content))


def decode_csv(contract: Contract, text: str) -> NDArray[np.float32]:
    """The input in a CSV with a heading; raises RequestRejected."""
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = list(islice((line for line in rows if line), MAX_ROWS + 2))
    except csv.Error as error:
        raise reject(contract, "body", str(error), "CSV with a heading is expected") from None
    if len(lines) < 2:
        raise reject(contract, "body", f"{len(lines)} lines", "a heading and at least one row are expected")
    _check_count(contract, "body", len(lines) - 1)
    return _decode_table(contract, lines[0], [[_read_cell(cell) for cell in line] for line in lines[1:]])


def _decode_split(contract: Contract, content: object) -> NDArray[np.float32]:
    place = "dataframe_split"
    if not isinstance(content, dict) or "data" not in content or not set(content) <= {"columns", "data", "index"}:
        received = show_value(sorted(map(str, content)) if isinstance(content, dict) else content)
        raise reject(contract, place, received, "an object with `data`, and with `columns` and `index` if wanted")
    rows, columns = content["data"], content.get("columns")
    if not isinstance(rows, list) or not rows:
        raise reject(contract, f"{place}.data", rows, "a list of rows is expected")
    # Without names a row may be one bare value, which is a table of one column.
    rows = [row if isinstance(row, list) else [row] for row in rows]
    if columns is None:
        columns = list(range(len(rows[0])))
    if not isinstance(columns, list):
        raise reject(contract, f"{place}.columns", columns, "a list of names is expected")
    return _decode_table(contract, [str(name) for name in columns], rows)


def _decode_records(contract: Contract, place: str, records: object) -> NDArray[np.float32]:
    if not isinstance(records, list) or not records:
        raise reject(contract, place, records, "a list of objects is expected")
    _check_count(contract, place, len(records))
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise reject(contract, f"{place}[{number}]", record, "an object is expected")
    # Of records that each name other columns, a table of all of them would outgrow the memory.
    names = [name for name in contract.features if any(name in record for record in records)]
    if contract.kind != "tabular" or not names:
        names = list(records[0])
        for number, record in enumerate(records):
            if record.keys() != records[0].keys():
                rule = "the same columns as in the first are expected"
                raise reject(contract, f"{place}[{number}]", show_value(list(record)), rule)
    return _decode_table(contract, names, [[record.get(name) for name in names] for record in records])


def _check_count(contract: Contract, place: str, rows: int) -> None:
    if rows > MAX_ROWS:
        raise reject(contract, place, f"more than {MAX_ROWS} rows", f"from 1 to {MAX_ROWS} at once are taken")


def _decode_table(contract: Contract, names: Sequence[str], rows: Sequence[Cells]) -> NDArray[np.float32]:
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise reject(contract, f"row {number}", f"{len(row)} cells", f"{len(names)} are expected, one a column")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    if len(columns) != len(names):
        raise reject(contract, "columns", list(names), "every name is expected once")
    if len(names) == 1 and isinstance(rows[0][0], list):
        return _decode_flattened(contract, next(iter(columns.values())))
    if contract.kind != "sequence" and not set(contract.features) & set(names) and _are_positions(names):
        if len(names) != len(contract.features):
            raise reject(contract, "columns", f"{len(names)} columns", f"{len(contract.features)} are expected")
        columns = dict(zip(contract.features, columns.values(), strict=True))
    return build_named(contract, columns)


def _decode_flattened(contract: Contract, cells: Cells) -> NDArray[np.float32]:
    """One column, each of its cells a row of the tensor, flattened or as it is."""
    values = read_numbers(contract, INPUT_NAME, list(cells))
    size = int(np.prod(contract.input_shape))
    if values.size != size * len(cells):
        received = f"cells of shape {list(values.shape[1:])}"
        raise reject(contract, INPUT_NAME, received, f"{size} numbers a row are expected")
    return build_tensor(contract, values.reshape(len(cells), *contract.input_shape))


def _decode_named(contract: Contract, content: Mapping[str, object]) -> NDArray[np.float32]:
    if set(content) == {INPUT_NAME}:
        return build_tensor(contract, read_numbers(contract, INPUT_NAME, content[INPUT_NAME]))
    columns: dict[str, Cells] = {}
    for name, cells in content.items():
        if not isinstance(cells, list):
            raise reject(contract, f"inputs.{name}", cells, "a list with one number a row is expected")
        columns[name] = cells
    return build_named(contract, columns)


def _are_positions(names: Sequence[str]) -> bool:
    return list(names) == [str(at) for at in range(len(names))]


def _read_cell(cell: str) -> object:
    text = cell.strip()
    if not text:
        return None
    return float(text) if _NUMBER.fullmatch(text) else text
