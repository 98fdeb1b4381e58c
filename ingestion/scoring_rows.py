"""Rows to predict from, out of a file of any form and size: read in pieces, typed and checked, never stored.

Checked is what the api checks, the features, and for a series its entity and time; the target need not be there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.codecs import MAX_ROWS, decode_rows
from core.contract import Column, Contract
from core.data_errors import RowsRejected
from core.errors import RequestRejected
from ingestion.fault_log import KEPT_FAULTS
from ingestion.faults import RowFault, Unreadable
from ingestion.forms import open_rows
from ingestion.receiving import receiving
from ingestion.validation import LINE, RowChecker, find_missing_columns

_LARGEST = float(np.finfo(np.float32).max)
_NUMBERS = ("float", "integer", "boolean")

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class ScoringRows:
    """Some rows of a file, in its order.

    `lines (rows,)` counts lines as an editor does, or rows of a Parquet file from 1; `values (rows, features)`; `keys`
    holds the key columns that the file has, each `(rows,)`. `faults` names the rows between them that were left out.
    """

    lines: NDArray[np.int64]
    values: NDArray[np.float32]
    keys: Mapping[str, pa.Array]
    faults: tuple[RowFault, ...]


def read_scoring_rows(contract: Contract, path: Path, on_progress: OnProgress) -> Iterator[ScoringRows]:
    """The rows of the file in pieces; `on_progress` is told how many of its bytes were read.

    Raises RowsRejected where the file as a whole cannot be read. Memory does not grow with the file.
    """
    needed = _build_needed(contract)
    try:
        for lines, columns, faults in _read(needed, path, on_progress):
            yield _build_rows(needed, lines, columns, faults)
    except Unreadable as unreadable:
        shown = [fault.to_fault() for fault in unreadable.faults[:KEPT_FAULTS]]
        raise RowsRejected(contract.model, path.name, shown, len(unreadable.faults)) from None


def get_key_columns(contract: Contract) -> list[Column]:
    """The contract's key columns, which are written beside the predictions."""
    names = (contract.key.id, contract.key.entity, contract.key.time)
    return [contract.column(name) for name in dict.fromkeys(names) if name]


def _build_needed(contract: Contract) -> Contract:
    """The contract with the columns that a prediction needs, each of which must have a value."""
    keys = {column.name for column in get_key_columns(contract)}
    columns = tuple(
        column.model_copy(update={"is_nullable": False})
        for column in contract.columns
        if column.name in keys or column.name in contract.features
    )
    # What is asked of rows that are stored is not asked of rows to predict from.
    return contract.model_copy(update={"columns": columns, "order": "any", "retention_days": None})


def _get_required(needed: Contract) -> Contract:
    """Without the key of a table, which need not be there."""
    if needed.kind == "sequence":
        return needed
    columns = tuple(column for column in needed.columns if column.name in needed.features)
    return needed.model_copy(update={"columns": columns})


Piece = tuple[NDArray[np.int64], Mapping[str, pa.Array], list[RowFault]]


def _read(needed: Contract, path: Path, on_progress: OnProgress) -> Iterator[Piece]:
    with receiving(path, model=needed.model, name=path.name, max_bytes=path.stat().st_size) as received:
        file = open_rows(received, needed)
        heading = file.heading
        missing = find_missing_columns(_get_required(needed), heading.columns, heading.ignored, heading.line)
        if missing:
            raise Unreadable(missing)
        checker = RowChecker(needed, has_decimal_comma=heading.has_decimal_comma, now=datetime.now(UTC))
        for rows in file.rows:
            checked = checker.check(rows)
            columns = {name: _join(checked.table.column(name)) for name in checked.table.column_names}
            lines = columns.pop(LINE).to_numpy()
            yield lines, columns, list(checked.faults)
            on_progress(rows.read_bytes)


def _build_rows(
    needed: Contract, lines: NDArray[np.int64], columns: Mapping[str, pa.Array], faults: list[RowFault]
) -> ScoringRows:
    keys = {column.name: columns[column.name] for column in get_key_columns(needed) if column.name in columns}
    is_numeric = all(needed.column(name).dtype in _NUMBERS for name in needed.features)
    values, reasons = (_stack if is_numeric else _encode_text)(needed, columns, len(lines))
    if not reasons:
        return ScoringRows(lines, values, keys, tuple(faults))
    faults = faults + [RowFault(int(lines[at]), "", "the row", reason) for at, reason in reasons.items()]
    faults.sort(key=lambda fault: fault.line or 0)
    is_kept = np.ones(len(lines), dtype=np.bool_)
    is_kept[list(reasons)] = False
    keys = {name: array.filter(pa.array(is_kept)) for name, array in keys.items()}
    return ScoringRows(lines[is_kept], values[is_kept], keys, tuple(faults))


def _stack(needed: Contract, columns: Mapping[str, pa.Array], rows: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The features as float32, and which rows have a number that it does not hold."""
    values = np.empty((rows, len(needed.features)), dtype=np.float32)
    with np.errstate(over="ignore"):
        for at, name in enumerate(needed.features):
            values[:, at] = columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    beyond = np.flatnonzero(~np.isfinite(values).all(axis=1))
    return values, {int(at): f"numbers up to {_LARGEST:g} are needed" for at in beyond}


def _encode_text(
    needed: Contract, columns: Mapping[str, pa.Array], rows: int
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The features as the api encodes rows with text, and why which rows are none."""
    table = pa.table({name: columns[name] for name in needed.features})
    values = np.zeros((rows, len(needed.features)), dtype=np.float32)
    reasons: dict[int, str] = {}
    for start in range(0, rows, MAX_ROWS):
        given = table.slice(start, MAX_ROWS).to_pylist()
        try:
            values[start : start + len(given)] = decode_rows(needed, given)
        except RequestRejected:
            for at, row in enumerate(given, start):
                try:
                    values[at] = decode_rows(needed, [row])[0]
                except RequestRejected as error:
                    reasons[at] = "; ".join(str(fault) for fault in error.faults)
    return values, reasons


def _join(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
