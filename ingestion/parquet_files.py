"""Reading Parquet files by row groups: columns typed against the contract, in batches of bounded memory.

Typed columns stay typed on their way to validation. A column of text is read as if it stood in a CSV file.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contract import Column, Contract, Dtype
from ingestion.faults import RowFault, Unreadable
from ingestion.files import Heading, RowFile, TextRows, match_columns
from ingestion.receiving import Received
from ingestion.validation import ARROW_TYPES

BATCH_ROWS = 65_536
MAX_GROUP_BYTES = 1 << 30
"""Unpacked bytes in one row group of the columns that are read, which a batch may need at once."""
MAX_BATCH_TEXT_BYTES = 64 << 20

_FIRST_LINE = 1
_NEEDED: dict[Dtype, str] = {
    "float": "a column of numbers or text is needed",
    "integer": "a column of whole numbers or text is needed",
    "text": "a column of text or whole numbers is needed",
    "boolean": "a column of booleans or text is needed",
    "time": "a column of timestamps, dates or text is needed",
}


def read_parquet(received: Received, contract: Contract) -> RowFile:
    """The rows of a Parquet file; its row 1 is line 1. Raises Unreadable."""
    try:
        file = pq.ParquetFile(
            received.copy, pre_buffer=False, page_checksum_verification=True, read_dictionary=_find_text(received)
        )
        schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise _refuse_damaged(error) from error
    columns, ignored = match_columns(schema.names, contract.columns, _FIRST_LINE)
    faults = [
        RowFault(None, name, str(schema.field(at).type), _NEEDED[contract.column(name).dtype])
        for name, at in columns.items()
        if not _is_readable(schema.field(at).type, contract.column(name).dtype)
    ]
    faults += _find_large_groups(file, [schema.names[at] for at in columns.values()])
    if faults:
        raise Unreadable(faults)
    heading = Heading(
        columns=columns, ignored=ignored, width=len(schema.names), line=_FIRST_LINE, first_line=_FIRST_LINE
    )
    return RowFile(heading, _read_rows(received, file, contract, heading))


def _find_text(received: Received) -> list[str]:
    """Columns of text: they are read in dictionaries, since a few bytes of a file may say a long text many times."""
    received.copy.seek(0)
    schema = pq.read_schema(received.copy)
    return [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]


def _find_large_groups(file: pq.ParquetFile, names: Sequence[str]) -> list[RowFault]:
    wanted = set(names)
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        parts = (group.column(at) for at in range(group.num_columns))
        size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema in wanted)
        if size > MAX_GROUP_BYTES:
            what = f"row group {number + 1} of {size} bytes"
            return [RowFault(None, "", what, f"at most {MAX_GROUP_BYTES} bytes; write smaller row groups")]
    return []


def _is_readable(given: pa.DataType, dtype: Dtype) -> bool:
    """Whether cells of that Arrow type can be values of the column's type."""
    given = given.value_type if pa.types.is_dictionary(given) else given
    if pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_null(given):
        return True
    is_number = pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given)
    readable = {
        "float": is_number,
        "integer": is_number,
        "text": pa.types.is_integer(given),
        "boolean": pa.types.is_boolean(given),
        "time": pa.types.is_timestamp(given) or pa.types.is_date(given),
    }
    return bool(readable[dtype])


def _read_rows(received: Received, file: pq.ParquetFile, contract: Contract, heading: Heading) -> Iterator[TextRows]:
    names = file.schema_arrow.names
    wanted = [names[at] for at in heading.columns.values()]
    total = max(file.metadata.num_rows, 1)
    line = _FIRST_LINE
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            cells = {
                name: _convert(batch.column(batch.schema.get_field_index(names[at])), contract.column(name), line)
                for name, at in heading.columns.items()
            }
            lines = np.arange(line, line + batch.num_rows, dtype=np.int64)
            line += batch.num_rows
            yield TextRows(lines, cells, (), received.size_bytes * min(line, total) // total)
    except (pa.ArrowException, OSError) as error:
        raise _refuse_damaged(error) from error


def _convert(array: pa.Array, column: Column, line: int) -> pa.Array:
    """The cells in the column's own type where they fit it, else as text, whose faults validation names one by one."""
    if pa.types.is_dictionary(array.type):
        _check_text(array, column, line)
        array = array.cast(array.type.value_type)
    if column.dtype == "time" and not _is_text(array.type):
        return _convert_times(array)
    if column.dtype != "text" and not pa.types.is_decimal(array.type) and not _is_text(array.type):
        try:
            return array.cast(ARROW_TYPES[column.dtype])
        except pa.ArrowInvalid:
            pass
    return pc.fill_null(array.cast(pa.string()), "")


def _check_text(array: pa.DictionaryArray, column: Column, line: int) -> None:
    lengths = pc.binary_length(array.dictionary)
    size = pc.sum(pc.take(lengths, array.indices).cast(pa.int64())).as_py() or 0
    if size > MAX_BATCH_TEXT_BYTES:
        what = f"{size} bytes of text in {len(array)} rows"
        raise Unreadable([RowFault(line, column.name, what, f"at most {MAX_BATCH_TEXT_BYTES} bytes are taken")])


def _convert_times(array: pa.Array) -> pa.Array:
    """Times in UTC, as validation has them: one without a zone is UTC already, and parts of a microsecond are cut."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    if array.type.unit == "ns":
        array = pc.floor_temporal(array, unit="microsecond")
    if array.type.tz is None:
        array = pc.assume_timezone(array, "UTC")
    return array.cast(ARROW_TYPES["time"], safe=False)


def _is_text(given: pa.DataType) -> bool:
    return bool(pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_null(given))


def _refuse_damaged(error: Exception) -> Unreadable:
    what = f"a Parquet file that cannot be read ({type(error).__name__})"
    return Unreadable([RowFault(None, "", what, "write it anew, or save it as CSV")])
