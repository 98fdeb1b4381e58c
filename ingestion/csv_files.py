"""Reading CSV files: dialect and heading first, then the rows as text, in chunks of bounded memory."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from core.contract import Contract
from ingestion.encodings import MAX_LINE_BYTES
from ingestion.faults import RowFault, Unreadable
from ingestion.files import Heading, RowFile, TextRows, match_columns
from ingestion.receiving import Received

CHUNK_BYTES = 4 << 20
"""Bytes of text in one chunk. A row is shorter than that, also one whose quoted cells span lines."""

_BOM = "\ufeff".encode()
_DELIMITERS = (",", ";", "\t")
_NAMED_DELIMITER = re.compile(r"sep=([,;\t])\s*")


@dataclass(frozen=True, kw_only=True)
class CsvHeading(Heading):
    """How a CSV file is written; rows begin at byte `offset` of its text, which is the beginning of `first_line`."""

    delimiter: str
    offset: int


def read_csv(received: Received, contract: Contract) -> RowFile:
    """The rows of a CSV file; raises Unreadable."""
    heading = read_heading(received.text, contract)
    return RowFile(heading, read_rows(received, heading))


def read_heading(file: IO[bytes], contract: Contract) -> CsvHeading:
    """The heading of a CSV file in UTF-8, matched with the contract's columns; raises Unreadable.

    Columns may stand in any order. A line `sep=;` before the heading, which Excel writes and reads, names the
    delimiter. A heading in the form that yfinance writes has three lines: the names after the word "Price", the
    instrument after "Ticker", and the name of the first column alone.
    """
    file.seek(0)
    head = file.read(MAX_LINE_BYTES + len(_BOM))
    start = len(_BOM) if head.startswith(_BOM) else 0
    text = head[start:].decode("utf-8", errors="ignore")
    lines = io.StringIO(text, newline="").readlines()
    first = next((index for index, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise Unreadable([RowFault(1, "", "an empty file", "a heading and at least one row are needed")])
    named = _NAMED_DELIMITER.fullmatch(lines[first])
    if named and len(lines) > first + 1:
        delimiter = named.group(1)
        first += 1
    else:
        delimiter = max(_DELIMITERS, key=lambda mark: len(_split(lines[first:], mark, 1)[0][0]))
    names, used_lines = _read_names(lines[first:], delimiter, first + 1)
    used_lines += first
    columns, ignored = match_columns(names, contract.columns, first + 1)
    return CsvHeading(
        columns=columns,
        ignored=ignored,
        delimiter=delimiter,
        # Where cells end with a tab, a comma may be a decimal mark as well as a sign for thousands: it is neither.
        has_decimal_comma=delimiter == ";",
        width=len(names),
        offset=start + sum(len(line.encode()) for line in lines[:used_lines]),
        line=first + 1,
        first_line=used_lines + 1,
    )


def _split(lines: Sequence[str], delimiter: str, most: int) -> tuple[list[list[str]], list[int]]:
    """The first records, and the number of lines up to the end of each."""
    records, ends = [], []
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        for record in reader:
            records.append([cell.strip() for cell in record])
            ends.append(reader.line_num)
            if len(records) == most:
                break
    except csv.Error as error:
        raise Unreadable([RowFault(1, "", str(error), "a heading of named columns is needed")]) from error
    return records, ends


def _read_names(lines: Sequence[str], delimiter: str, line: int) -> tuple[list[str], int]:
    """The column names, and how many lines the heading takes; `line` is the number of its first."""
    (names,), (end,) = _split(lines, delimiter, 1)
    if names[0].casefold() != "price":
        return names, end
    records, ends = _split(lines, delimiter, 3)
    if len(records) < 3 or records[1][:1] != ["Ticker"] or any(records[2][1:]):
        return names, end
    instruments = sorted({cell for cell in records[1][1:] if cell})
    if len(instruments) > 1:
        shown = ", ".join(instruments)
        raise Unreadable([RowFault(line + 1, "", shown, "one instrument in a file; save each to a file of its own")])
    return [records[2][0], *names[1:]], ends[2]


def read_rows(received: Received, heading: CsvHeading) -> Iterator[TextRows]:
    """The rows below the heading, as text, in chunks of about CHUNK_BYTES; raises Unreadable.

    Blank rows are passed over. Memory does not grow with the file.
    """
    if received.text_bytes <= heading.offset:
        return
    lines = _Lines(heading)
    received.text.seek(heading.offset)
    names = [str(at) for at in range(heading.width)]
    try:
        batches = arrow_csv.open_csv(
            pa.PythonFile(received.text, mode="r"),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=CHUNK_BYTES, column_names=names),
            parse_options=arrow_csv.ParseOptions(
                delimiter=heading.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=lines.note_invalid,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
            ),
        )
        for batch in batches:
            yield lines.number(batch, received.text.tell() * received.size_bytes // received.text_bytes)
    except pa.ArrowInvalid as error:
        rule = f"a row is no longer than {CHUNK_BYTES} bytes; look for a quote that is not closed"
        raise Unreadable([RowFault(lines.next_line, "", "a row that does not end", rule)]) from error
    # Arrow answers no batch for rows that are all invalid.
    empty = pa.RecordBatch.from_arrays([pa.array([], pa.string())] * heading.width, names=names)
    yield lines.number(empty, received.size_bytes)
    if received.is_quote_open and lines.is_last_row_split:
        fault = RowFault(lines.last_line, "", "a quote that is not closed", "every quoted cell is closed")
        raise Unreadable([fault])


class _Lines:
    """Gives rows their line numbers; Arrow counts rows, and a quoted cell may hold ends of lines."""

    def __init__(self, heading: CsvHeading) -> None:
        self._heading = heading
        self._invalid: dict[int, arrow_csv.InvalidRow] = {}
        self._next_row = 1
        self.next_line = heading.first_line
        self.last_line = heading.first_line
        self.is_last_row_split = False

    def note_invalid(self, row: arrow_csv.InvalidRow) -> str:
        self._invalid[row.number] = row
        return "skip"

    def number(self, batch: pa.RecordBatch, read_bytes: int) -> TextRows:
        """The batch's rows that are not blank, with their lines and those of the invalid rows between them."""
        span = np.arange(self._next_row, self._next_row + batch.num_rows + len(self._invalid))
        is_valid = ~np.isin(span, list(self._invalid))
        end = int(np.searchsorted(np.cumsum(is_valid), batch.num_rows)) + 1 if batch.num_rows else 0
        while end < len(span) and not is_valid[end]:
            end += 1
        span, is_valid = span[:end], is_valid[:end]
        inner_ends = np.zeros(len(span), dtype=np.int64)
        inner_ends[is_valid] = _count_line_ends(batch)
        invalid = [self._invalid.pop(int(row)) for row in span[~is_valid]]
        inner_ends[~is_valid] = [(row.text or "").count("\n") for row in invalid]
        lines = self.next_line + np.arange(len(span)) + np.cumsum(inner_ends) - inner_ends
        if len(span):
            self._next_row = int(span[-1]) + 1
            self.last_line = int(lines[-1])
            self.is_last_row_split = bool(inner_ends[-1])
            self.next_line = self.last_line + int(inner_ends[-1]) + 1
        faults = tuple(self._word_invalid(row, int(line)) for row, line in zip(invalid, lines[~is_valid], strict=True))
        is_filled = _find_filled(batch)
        rows = batch.filter(pa.array(is_filled)) if not is_filled.all() else batch
        cells = {name: rows.column(at) for name, at in self._heading.columns.items()}
        return TextRows(lines=lines[is_valid][is_filled], cells=cells, faults=faults, read_bytes=read_bytes)

    def _word_invalid(self, row: arrow_csv.InvalidRow, line: int) -> RowFault:
        rule = f"{row.expected_columns} cells are needed, as in the heading, and here are {row.actual_columns}"
        return RowFault(line, "", row.text or "", rule)


def _count_line_ends(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """How many ends of lines the cells of each row hold, `(rows,)`."""
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        data = column.buffers()[2]
        if data is not None and b"\n" in memoryview(data).tobytes():
            total += pc.count_substring(column, "\n").to_numpy(zero_copy_only=False)
    return total


def _find_filled(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which rows have a cell that is not empty, `(rows,)`."""
    filled = np.zeros(batch.num_rows, dtype=np.bool_)
    for column in batch.columns:
        filled |= pc.not_equal(column, "").to_numpy(zero_copy_only=False)
        if filled.all():
            break
    return filled
