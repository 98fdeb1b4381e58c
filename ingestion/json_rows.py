"""Rows that come as JSON, in files, bodies or messages: one object a row, its members matched with the contract's
columns as a file's heading is.

What comes out is text in the contract's columns, for `ingestion.validation` to judge like the cells of a file.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from core.contract import Contract
from core.errors import show_value
from ingestion.faults import RowFault

_EXACT_INTEGER_DIGITS = 18

JsonRow = Mapping[str, object]
Entry = JsonRow | RowFault | None
"""One line of a batch: a row's members, what keeps the line from being a row, or nothing where it is blank."""


class MalformedJson(ValueError):
    """The text is no JSON, for a reason of one line; `line` is where reading stopped, from 1."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class TextRow:
    """One row in the contract's columns, as text; empty where it has no value."""

    line: int
    cells: Mapping[str, str]


def read_lines(lines: Iterable[bytes], first_line: int = 1) -> list[Entry]:
    """Each line of NDJSON as an entry; a line that is no JSON object becomes a fault of its own."""
    return [read_line(raw, line) for line, raw in enumerate(lines, start=first_line)]


def read_line(raw: bytes, line: int) -> Entry:
    """One line of NDJSON; NaN and Infinity, which are no JSON, are read so that the column's rule can name them."""
    if not raw.strip():
        return None
    try:
        document = parse_json(raw)
    except MalformedJson as error:
        return RowFault(line, "", show_bytes(raw), f"one JSON object a line is needed ({error})")
    return check_object(document, line)


def check_object(document: object, line: int) -> Entry:
    """The document if it is an object, else its fault."""
    if isinstance(document, dict):
        return document
    return RowFault(line, "", show_value(document), "a JSON object with the columns as members is needed")


def parse_json(raw: bytes | str) -> object:
    """The JSON document in `raw`; raises MalformedJson."""
    try:
        document: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            document = json.loads(raw, parse_int=_parse_integer)
        except RecursionError:
            raise MalformedJson("it is nested too deeply", error.lineno) from None
        except ValueError:
            raise MalformedJson(error.msg, error.lineno) from None
    return document


def _parse_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _EXACT_INTEGER_DIGITS else float(digits)


def show_bytes(raw: bytes) -> str:
    """Bytes as records may hold them: what is not text is written in hexadecimal."""
    return raw[:1_000].decode("utf-8", "backslashreplace").replace("\0", "\\x00")


class JsonReader:
    """Turns entries into rows of text for one contract; entries with the same members are matched once."""

    def __init__(self, contract: Contract) -> None:
        names: dict[str, list[str]] = {}
        for column in contract.columns:
            for name in (column.name, *column.aliases):
                names.setdefault(name.casefold(), []).append(column.name)
        self._columns = names
        self._exact = {column.name.casefold(): column.name for column in contract.columns}
        self._matched: dict[tuple[str, ...], dict[str, str] | str] = {}
        self.ignored: set[str] = set()

    def read(self, entries: Sequence[Entry]) -> tuple[list[TextRow], list[RowFault]]:
        """The rows in text, and the faults of lines that are none; entry 0 is line 1."""
        rows, faults = [], []
        for line, entry in enumerate(entries, start=1):
            if entry is None:
                continue
            row = replace(entry, line=line) if isinstance(entry, RowFault) else self._read(entry, line)
            if isinstance(row, TextRow):
                rows.append(row)
            else:
                faults.append(row)
        return rows, faults

    def _read(self, entry: JsonRow, line: int) -> TextRow | RowFault:
        members = self._match(tuple(entry))
        if isinstance(members, str):
            return RowFault(line, members, show_value(", ".join(entry)), f"one member stands for {members}")
        cells: dict[str, str] = {}
        for member, column in members.items():
            value = entry[member]
            text = _to_text(value)
            if text is None:
                return RowFault(
                    line, column, show_value(value), "one plain value is needed: text, a number, true or false"
                )
            if not _is_encodable(text):
                return RowFault(line, column, show_value(value), "text of Unicode characters is needed")
            cells[column] = text
        return TextRow(line, cells)

    def _match(self, members: tuple[str, ...]) -> dict[str, str] | str:
        """The column of each member that has one; the column's name where two members stand for it."""
        known = self._matched.get(members)
        if known is not None:
            return known
        if len(self._matched) > 1_000:
            self._matched.clear()
        matched: dict[str, str] = {}
        by_name = {self._exact[member.casefold()] for member in members if member.casefold() in self._exact}
        answer: dict[str, str] | str = matched
        for member in members:
            folded = member.casefold()
            own = self._exact.get(folded)
            columns = [own] if own else [name for name in self._columns.get(folded, ()) if name not in by_name]
            if not columns:
                self.ignored.add(member[:100])
            elif columns[0] in matched.values():
                answer = columns[0]
                break
            else:
                matched[member] = columns[0]
        self._matched[members] = answer
        return answer


def _to_text(value: object) -> str | None:
    """The value as a file's cell would hold it; None for what no cell can hold."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else None


def _is_encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
