"""The audit log as a file: NDJSON for programs, CSV for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Literal

import orjson

from core.audit import FIELDS, StoredEntry
from core.spreadsheets import neutralise

ExportForm = Literal["ndjson", "csv"]
MEDIA_TYPES: dict[ExportForm, str] = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}

_LINES_AT_ONCE = 200


def export_entries(entries: Iterable[StoredEntry], form: ExportForm) -> Iterator[bytes]:
    """The entries as a file in pieces of some lines. A spreadsheet finds no formula in the CSV."""
    lines = _write_csv(entries) if form == "csv" else _write_ndjson(entries)
    piece: list[bytes] = []
    for line in lines:
        piece.append(line)
        if len(piece) == _LINES_AT_ONCE:
            yield b"".join(piece)
            piece = []
    if piece:
        yield b"".join(piece)


def _write_ndjson(entries: Iterable[StoredEntry]) -> Iterator[bytes]:
    for entry in entries:
        document = asdict(entry)
        yield orjson.dumps({name: document[name] for name in FIELDS}, option=orjson.OPT_APPEND_NEWLINE)


def _write_csv(entries: Iterable[StoredEntry]) -> Iterator[bytes]:
    yield _write_line(FIELDS)
    for entry in entries:
        cells = asdict(entry) | {"happened_at": entry.happened_at.isoformat()}
        yield _write_line(["" if cells[name] is None else neutralise(str(cells[name])) for name in FIELDS])


def _write_line(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
