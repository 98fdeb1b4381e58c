"""Reading a file's rows without storing them: what local inference and the demo predict from."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.contract import Contract
from core.data_errors import RowsRejected
from ingestion.fault_log import KEPT_FAULTS
from ingestion.faults import RowFault, Unreadable
from ingestion.forms import open_rows
from ingestion.receiving import Received, receiving
from ingestion.validation import LINE, RowChecker, find_missing_columns


def read_columns(contract: Contract, path: Path, *, max_bytes: int) -> Mapping[str, NDArray[Any]]:
    """The file's columns, each `(rows,)`, in the order of the contract's time; every row is checked as an import does.

    Holds the whole file in memory. Raises RowsRejected.
    """
    with receiving(path, model=contract.model, name=path.name, max_bytes=max_bytes) as received:
        try:
            table = _read_table(contract, received)
        except Unreadable as unreadable:
            shown = [fault.to_fault() for fault in unreadable.faults[:KEPT_FAULTS]]
            raise RowsRejected(contract.model, path.name, shown, len(unreadable.faults)) from None
    columns = {name: _to_numpy(table.column(name)) for name in table.column_names if name != LINE}
    if contract.key.time is None:
        return columns
    order = np.argsort(columns[contract.key.time], kind="stable")
    return {name: values[order] for name, values in columns.items()}


def _read_table(contract: Contract, received: Received) -> pa.Table:
    file = open_rows(received, contract)
    heading = file.heading
    missing = find_missing_columns(contract, heading.columns, heading.ignored, heading.line)
    if missing:
        raise Unreadable(missing)
    checker = RowChecker(contract, has_decimal_comma=heading.has_decimal_comma, now=datetime.now(UTC))
    checked = [checker.check(rows) for rows in file.rows]
    faults = [fault for part in checked for fault in part.faults]
    if not checked:
        faults = [RowFault(heading.first_line, "", "no rows", "at least one row below the heading is needed")]
    if faults:
        raise Unreadable(faults)
    return pa.concat_tables([part.table for part in checked])


def _to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"))
    values: NDArray[Any] = column.to_numpy()
    return values
