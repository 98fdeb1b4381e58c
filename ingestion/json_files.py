"""Reading files of JSON objects, as addresses answer them: an array of objects, or one object a line.

Such a file is held in memory and bounded by that; what is larger comes as CSV or Parquet. What an object means is for
`ingestion.json_rows` to say.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from core.contract import Contract
from ingestion.faults import RowFault, Unreadable
from ingestion.files import Heading, RowFile, TextRows
from ingestion.json_rows import Entry, JsonReader, MalformedJson, TextRow, check_object, parse_json, read_lines
from ingestion.receiving import Received

MAX_BYTES = 32 << 20
_FIRST_LINE = 1


def read_json(received: Received, contract: Contract) -> RowFile:
    """The rows of a JSON file; the line is that of the object, or its number in the array. Raises Unreadable.

    A column that only some objects have is empty in the others.
    """
    if received.text_bytes > MAX_BYTES:
        raise Unreadable([RowFault(None, "", f"{received.text_bytes} bytes of JSON", f"at most {MAX_BYTES} bytes")])
    received.text.seek(0)
    reader = JsonReader(contract)
    rows, faults = reader.read(_parse(received.text.read()))
    if faults:
        raise Unreadable(faults)
    present = {name for row in rows for name in row.cells}
    names = [column.name for column in contract.columns if column.name in present]
    heading = Heading(
        columns={name: at for at, name in enumerate(names)},
        ignored=tuple(sorted(reader.ignored)),
        width=len(names),
        line=_FIRST_LINE,
        first_line=_FIRST_LINE,
    )
    return RowFile(heading, _build_rows(received, rows, names))


def _parse(content: bytes) -> Sequence[Entry]:
    content = content.removeprefix("\ufeff".encode())
    if not content.lstrip().startswith(b"["):
        return read_lines(content.split(b"\n"))
    try:
        document = parse_json(content)
    except MalformedJson as error:
        rule = "an array of objects is needed, or one object a line, with the columns as members"
        raise Unreadable([RowFault(error.line, "", f"no JSON ({error})", rule)]) from None
    entries = document if isinstance(document, list) else [document]
    return [check_object(entry, number) for number, entry in enumerate(entries, start=1)]


def _build_rows(received: Received, rows: Sequence[TextRow], names: Sequence[str]) -> Iterator[TextRows]:
    lines = np.array([row.line for row in rows], dtype=np.int64)
    cells = {name: pa.array([row.cells.get(name, "") for row in rows], pa.string()) for name in names}
    yield TextRows(lines, cells, (), received.size_bytes)
