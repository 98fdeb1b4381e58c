"""Reading XLSX workbooks: bounded before anything is unpacked, then one sheet row by row.

openpyxl reads a sheet as a stream, in the same memory for a million rows as for a thousand. python-calamine is some
15 times as fast, but holds the whole sheet, laid out densely: one cell in a far corner would take all memory.
Entities in XML are refused by defusedxml, through which openpyxl reads where it is installed.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from typing import IO, TYPE_CHECKING, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
import pyarrow as pa
from defusedxml.ElementTree import fromstring

from core.contract import Contract
from ingestion.faults import RowFault, Unreadable
from ingestion.files import Heading, RowFile, TextRows, match_columns
from ingestion.receiving import Received

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet
    from openpyxl.worksheet.worksheet import Worksheet

CHUNK_ROWS = 5_000
MAX_MEMBERS = 2_000
MAX_DIRECTORY_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 2 << 30
MAX_PART_BYTES = 64 << 20
"""Largest part beside the sheets, as the table of shared texts, which is held in memory; some four times its size."""
MAX_RATIO = 100
"""Largest ratio of unpacked to packed bytes; sheets of real figures have 5 to 20."""
_RATIO_FROM_BYTES = 16 << 20

MAX_ROWS = 1_048_576
_MAX_CELL_CHARS = 32_767
_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")
_MANIFEST = "[Content_Types].xml"
_SHEET_TYPES = "spreadsheetml.worksheet+xml"
_SAVE_AGAIN = "save it as XLSX anew, or as CSV"
_ERROR_VALUES = frozenset(("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A", "#GETTING_DATA"))
# All that zipfile, expat, defusedxml and openpyxl raise at a workbook that is damaged or made up.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    zlib.error,
)


def read_xlsx(received: Received, contract: Contract, sheet: str | None) -> RowFile:
    """The rows of the sheet with that name, of the first one without; raises Unreadable.

    The heading is the first row that is not blank. Cells are taken as they are typed; a formula is its stored value.
    """
    check_archive(received.copy, received.size_bytes)
    try:
        worksheet = _open_sheet(received.copy, sheet)
        cells = _read_cells(worksheet)
        line, names = next(((line, _read_names(row)) for line, row in cells if any(_is_filled(row))), (1, []))
    except _DAMAGED as error:
        raise _refuse_damaged(error) from error
    if not names:
        raise Unreadable([RowFault(1, "", "an empty sheet", "a heading and at least one row are needed")])
    columns, ignored = match_columns(names, contract.columns, line)
    heading = Heading(columns=columns, ignored=ignored, width=len(names), line=line, first_line=line + 1)
    return RowFile(heading, _read_rows(received, heading, cells))


def check_archive(file: IO[bytes], size_bytes: int) -> None:
    """Refuse an archive by what its directory says, before any of it is unpacked; raises Unreadable.

    What is unpacked later never exceeds the sizes that are checked here: zipfile stops at them.
    """
    _check_directory(file, size_bytes)
    try:
        with ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise _refuse(f"{len(members)} parts", f"at most {MAX_MEMBERS} parts in a workbook")
            if len({member.filename for member in members}) < len(members):
                raise _refuse("a part that is there twice", _SAVE_AGAIN)
            if _MANIFEST not in archive.namelist() or not any(name.startswith("xl/") for name in archive.namelist()):
                raise _refuse(
                    "a ZIP file that is no workbook", "unpack it and import the CSV, XLSX or Parquet file in it"
                )
            unpacked = sum(member.file_size for member in members)
            if unpacked > MAX_UNPACKED_BYTES:
                raise _refuse(f"{unpacked} bytes unpacked", f"at most {MAX_UNPACKED_BYTES} bytes; save it as CSV")
            if unpacked > max(_RATIO_FROM_BYTES, MAX_RATIO * size_bytes):
                rule = f"at most {MAX_RATIO} times its packed size; save it as CSV"
                raise _refuse(f"{unpacked} bytes unpacked from {size_bytes}", rule)
            large = {f"/{member.filename}" for member in members if member.file_size > MAX_PART_BYTES}
            if large and not large <= _find_sheets(archive):
                rule = f"at most {MAX_PART_BYTES} bytes beside the sheets; save it as CSV"
                raise _refuse(f"a part of more than {MAX_PART_BYTES} bytes that is no sheet", rule)
    except _DAMAGED as error:
        raise _refuse_damaged(error) from error


def _check_directory(file: IO[bytes], size_bytes: int) -> None:
    """Bound the archive's directory itself, which zipfile reads as a whole."""
    tail_bytes = min(size_bytes, _END_OF_DIRECTORY.size + 0xFFFF)
    file.seek(size_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END_OF_DIRECTORY.size:
        raise _refuse("a ZIP file that is cut off", "send the whole file")
    _, _, _, _, members, directory_bytes, _, _ = _END_OF_DIRECTORY.unpack_from(tail, at)
    if members > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        raise _refuse(f"{members} parts", f"at most {MAX_MEMBERS} parts in a workbook")
    file.seek(0)


def _find_sheets(archive: ZipFile) -> set[str]:
    """The parts that the manifest declares as sheets and as nothing else."""
    if archive.getinfo(_MANIFEST).file_size > MAX_PART_BYTES:
        return set()
    kinds: dict[str, set[bool]] = {}
    for element in fromstring(archive.read(_MANIFEST), forbid_dtd=True):
        is_sheet = element.get("ContentType", "").endswith(_SHEET_TYPES)
        kinds.setdefault(element.get("PartName", ""), set()).add(is_sheet)
    return {name for name, are_sheets in kinds.items() if are_sheets == {True}}


def _open_sheet(file: IO[bytes], wanted: str | None) -> "Worksheet":
    with warnings.catch_warnings():
        # Of styles, extensions and validations, which say nothing of values.
        warnings.filterwarnings("ignore", module="openpyxl")
        workbook = _open_workbook(file)
    sheets = {sheet.title: sheet for sheet in workbook.worksheets}
    shown = ", ".join(sheets) or "none"
    if wanted is not None and wanted not in sheets:
        raise Unreadable([RowFault(None, "", f"sheet {wanted}", f"the workbook's sheets are {shown}")])
    if not sheets:
        raise Unreadable([RowFault(None, "", "no sheet of cells", "a sheet with a heading and rows is needed")])
    worksheet = cast("ReadOnlyWorksheet", sheets[wanted] if wanted is not None else next(iter(sheets.values())))
    # What the sheet says of its own size may be wrong, and cells beyond it would be left out.
    worksheet.reset_dimensions()
    # As a reader of rows it is one.
    return cast("Worksheet", worksheet)


def _open_workbook(file: IO[bytes]) -> "Workbook":
    import openpyxl

    if not openpyxl.DEFUSEDXML:
        raise RuntimeError("openpyxl reads XML without defusedxml")
    return openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)


def _read_cells(worksheet: "Worksheet") -> Iterator[tuple[int, Sequence[object]]]:
    """Every row with its number from 1, also blank ones."""
    for line, row in enumerate(worksheet.iter_rows(values_only=True), start=1):
        if line > MAX_ROWS:
            raise Unreadable([RowFault(line, "", "a further row", f"a sheet has at most {MAX_ROWS} rows")])
        yield line, row


def _read_names(row: Sequence[object]) -> list[str]:
    names = [_to_text(value).strip() for value in row]
    while names and not names[-1]:
        names.pop()
    return names


def _read_rows(
    received: Received, heading: Heading, cells: Iterator[tuple[int, Sequence[object]]]
) -> Iterator[TextRows]:
    chunk = _Chunk(heading)
    try:
        for line, row in cells:
            chunk.add(line, row)
            if chunk.size >= CHUNK_ROWS:
                # The sheet is unpacked as it is read, so that the place in the file tells how far that is.
                yield chunk.close(min(received.copy.tell(), received.size_bytes))
                chunk = _Chunk(heading)
    except _DAMAGED as error:
        raise _refuse_damaged(error) from error
    yield chunk.close(received.size_bytes)


class _Chunk:
    """Some rows as they are gathered."""

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._lines: list[int] = []
        self._texts: dict[str, list[str]] = {name: [] for name in heading.columns}
        self._faults: list[RowFault] = []
        self.size = 0

    def add(self, line: int, row: Sequence[object]) -> None:
        """Add a row, or its fault; a blank one is passed over."""
        filled = _is_filled(row)
        if not any(filled):
            return
        self.size += 1
        width = self._heading.width
        if any(filled[width:]):
            value = _to_text(next(value for value in row[width:] if value is not None))
            rule = f"{width} cells are needed, as in the heading; here is one beside them"
            self._faults.append(RowFault(line, "", value, rule))
            return
        texts = {name: _to_text(row[at]) if at < len(row) else "" for name, at in self._heading.columns.items()}
        for name, text in texts.items():
            if text in _ERROR_VALUES:
                self._faults.append(RowFault(line, name, text, "a value is needed; the sheet's formula has an error"))
                return
        self._lines.append(line)
        for name, text in texts.items():
            self._texts[name].append(text)

    def close(self, read_bytes: int) -> TextRows:
        cells = {name: pa.array(texts, pa.string()) for name, texts in self._texts.items()}
        return TextRows(np.array(self._lines, dtype=np.int64), cells, tuple(self._faults), read_bytes)


def _is_filled(row: Sequence[object]) -> list[bool]:
    return [value is not None and value != "" for value in row]


def _to_text(value: object) -> str:
    """A typed cell as it would stand in a CSV file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)[:_MAX_CELL_CHARS] if not isinstance(value, float) else repr(value)


def _refuse(value: str, rule: str) -> Unreadable:
    return Unreadable([RowFault(None, "", value, rule)])


def _refuse_damaged(error: Exception) -> Unreadable:
    from defusedxml import DefusedXmlException

    if isinstance(error, DefusedXmlException):
        return _refuse("a workbook whose XML declares entities or a document type", _SAVE_AGAIN)
    return _refuse(f"a workbook that cannot be read ({type(error).__name__})", _SAVE_AGAIN)
