"""Workbooks: typed cells and sheets, and archives that are made to harm."""

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime, time
from typing import Any

import openpyxl
import pytest
from openpyxl.styles import numbers

from core.contract import Column, Contract
from ingestion import xlsx_files
from ingestion.faults import RowFault, Unreadable
from ingestion.receiving import receiving
from ingestion.xlsx_files import read_xlsx
from tests.ingestion.series import build_series_contract, build_table_contract

_SHEET = "xl/worksheets/sheet1.xml"
_STYLES = "xl/styles.xml"
_STRINGS_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"


def _save(rows: Sequence[Sequence[Any]], *, titles: tuple[str, ...] = ("Sheet",)) -> bytes:
    """A workbook whose last sheet has the rows; the others have one cell."""
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.worksheets[0])
    for title in titles:
        workbook.create_sheet(title).append(["another"])
    sheet = workbook.worksheets[-1]
    sheet.delete_rows(1)
    for row in rows:
        sheet.append(list(row))
    file = io.BytesIO()
    workbook.save(file)
    return file.getvalue()


def _read(
    content: bytes, contract: Contract, sheet: str | None = None
) -> tuple[list[tuple[int, dict[str, str]]], list[RowFault]]:
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[RowFault] = []
    with receiving(io.BytesIO(content), model="m", name="x", max_bytes=1 << 30) as received:
        for chunk in read_xlsx(received, contract, sheet).rows:
            for at, line in enumerate(chunk.lines.tolist()):
                rows.append((line, {name: cells[at].as_py() for name, cells in chunk.cells.items()}))
            faults += chunk.faults
    return rows, faults


def _rewrite(content: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """The archive with changed members."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def _share_texts(content: bytes, part: str = "xl/sharedStrings.xml", blanks: int = 0) -> bytes:
    """The workbook with its first text in the table of shared texts, as spreadsheets write it."""
    table = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>Date</t></si></sst>'

    def change(name: str, content: bytes) -> bytes:
        content = content.replace(b't="inlineStr"><is><t>Date</t></is>', b't="s"><v>0</v>')
        sheet = f'<Override PartName="/{part}" ContentType="{_SHEET_TYPE}"/>' if blanks else ""
        override = f'<Override PartName="/{part}" ContentType="{_STRINGS_TYPE}"/>{sheet}</Types>'
        return content.replace(b"</Types>", override.encode()) if name.startswith("[") else content

    file = io.BytesIO(_rewrite(content, change))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(part, table + b" " * blanks)
    return file.getvalue()


_SHEET_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"
_DATES: list[list[Any]] = [["Date", "Close"], [datetime(2021, 1, 1), 1.5], [datetime(2021, 1, 2), 2]]  # noqa: DTZ001 - cells have no zone
_READ = [(2, {"Date": "2021-01-01T00:00:00", "Close": "1.5"}), (3, {"Date": "2021-01-02T00:00:00", "Close": "2"})]


def test_typed_cells_are_read_as_a_csv_would_have_them() -> None:
    contract = build_table_contract("m", *(Column(name=name, dtype="text") for name in "abcdef"))
    row = [datetime(2021, 1, 2, 3, 4, 5), 0.1, 7, True, "text", time(1, 2)]  # noqa: DTZ001 - cells have no zone

    rows, _ = _read(_save([list("abcdef"), row]), contract)

    assert list(rows[0][1].values()) == ["2021-01-02T03:04:05", "0.1", "7", "true", "text", "01:02:00"]


def test_first_sheet_is_read_or_the_named_one() -> None:
    content = _save(_DATES, titles=("notes", "data"))

    assert _read(content, build_series_contract("m"), "data")[0] == _READ
    assert _read(content, build_series_contract("m"))[0] == []
    with pytest.raises(Unreadable, match="the workbook's sheets are notes, data"):
        _read(content, build_series_contract("m"), "Data")


def test_blank_rows_and_columns_around_the_rows_are_passed_over() -> None:
    rows: list[list[Any]] = [
        [],
        [None, "Close", "DATE"],
        [],
        [None, 1.5, "2021-01-01"],
        [None, None, None],
        [None, 2, "2021-01-02"],
    ]

    found, faults = _read(_save(rows), build_series_contract("m"))

    assert [(line, row["Close"]) for line, row in found] == [(4, "1.5"), (6, "2")]
    assert faults == []


def test_formula_is_its_stored_value_and_its_error_a_fault() -> None:
    def change(name: str, content: bytes) -> bytes:
        content = content.replace(b"<v>1.5</v>", b"<f>1+0.5</f><v>1.5</v>")
        return content.replace(b"<v>2</v>", b"<v>#DIV/0!</v>").replace(b'<c r="B3" t="n">', b'<c r="B3" t="e">')

    rows, faults = _read(_rewrite(_save(_DATES), change), build_series_contract("m"))

    assert rows == _READ[:1]
    assert [(fault.line, fault.column, fault.value) for fault in faults] == [(3, "Close", "#DIV/0!")]


def test_cells_beside_the_heading_are_a_fault_of_their_row() -> None:
    beside: list[list[Any]] = [*_DATES[:2], [*_DATES[2], "note"]]
    rows, faults = _read(_save(beside), build_series_contract("m"))

    assert rows == _READ[:1]
    assert [(fault.line, fault.value) for fault in faults] == [(3, "note")]


def test_day_in_a_format_of_days_is_a_date_whatever_the_format_shows() -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.worksheets[0]
    sheet.append(["Date", "Close"])
    sheet.append([44197, 1.5])
    sheet["A2"].number_format = numbers.FORMAT_DATE_DDMMYY
    file = io.BytesIO()
    workbook.save(file)

    assert _read(file.getvalue(), build_series_contract("m"))[0] == _READ[:1]


def test_rows_beyond_what_the_sheet_says_of_itself_are_read() -> None:
    def change(name: str, content: bytes) -> bytes:
        return content.replace(b'<dimension ref="A1:B3"', b'<dimension ref="A1:A2"') if name == _SHEET else content

    content = _rewrite(_save(_DATES), change)

    assert b'ref="A1:A2"' in zipfile.ZipFile(io.BytesIO(content)).read(_SHEET)
    assert _read(content, build_series_contract("m"))[0] == _READ


def test_texts_that_are_shared_are_read() -> None:
    content = _share_texts(_save(_DATES))

    assert b"Date" not in zipfile.ZipFile(io.BytesIO(content)).read(_SHEET)
    assert _read(content, build_series_contract("m"))[0] == _READ


def test_rows_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx_files, "CHUNK_ROWS", 7)
    contract = build_table_contract("m", Column(name="a", dtype="integer"), Column(name="b", dtype="integer"))

    rows, _ = _read(_save([["a", "b"], *([at, at] for at in range(100))]), contract)

    assert [(line, row["a"]) for line, row in rows] == [(at + 2, str(at)) for at in range(100)]


# --- archives that are made to harm ------------------------------------------------------------------------------


def _bomb(part: str, size: int) -> bytes:
    """A workbook one of whose parts unpacks to `size` bytes of blanks."""

    def change(name: str, content: bytes) -> bytes:
        return content + b" " * size if name == part else content

    return _rewrite(_save(_DATES), change)


def _lie_about_sizes(content: bytes) -> bytes:
    """The archive whose directory says that every part is 100 bytes long."""
    changed = bytearray(content)
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        struct.pack_into("<I", changed, at + 24, 100)
        at = content.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def _declare_entities(name: str, content: bytes) -> bytes:
    levels = "".join(f'<!ENTITY e{at} "{f"&e{at - 1};" * 10}">' for at in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "ha">{levels}]>'.encode()
    head, _, rest = content.rpartition(b"?>") if content.startswith(b"<?xml") else (b"", b"", content)
    body = rest.replace(b"<v>1.5</v>", b"<v>&e9;</v>")
    return (head + b"?>" if head else b"") + bomb + body


HARMFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "much larger than its packed size": (lambda: _bomb(_SHEET, 120 << 20), "at most 100 times its packed size"),
    "larger than allowed": (lambda: _bomb(_SHEET, 3 << 20), "at most 2097152 bytes; save it as CSV"),
    "a large part beside the sheets": (lambda: _bomb(_STYLES, 300_000), "at most 262144 bytes beside the sheets"),
    "large shared texts that are declared a sheet too": (
        lambda: _share_texts(_save(_DATES), part=_SHEET.replace("1", "9"), blanks=300_000),
        "at most 262144 bytes beside the sheets",
    ),
    "sizes that are lies": (lambda: _lie_about_sizes(_save(_DATES)), "save it as XLSX anew"),
    "entities in the sheet": (
        lambda: _rewrite(_save(_DATES), lambda name, part: _declare_entities(name, part) if name == _SHEET else part),
        "save it as XLSX anew",
    ),
    "entities in the manifest": (
        lambda: _rewrite(
            _save(_DATES), lambda name, part: _declare_entities(name, part) if name.startswith("[") else part
        ),
        "save it as XLSX anew",
    ),
    "an archive that is no workbook": (lambda: _zip({"a.csv": b"Date,Close\n"}), "unpack it"),
    "thousands of parts": (
        lambda: _zip({f"xl/{at}": b"" for at in range(3000)}),
        "at most 2000 parts in a workbook",
    ),
    "cut off": (lambda: _save(_DATES)[:-30], "send the whole file"),
    "bytes in the middle changed": (lambda: _break(_save(_DATES)), "save it as XLSX anew"),
    "no sheet's part": (
        lambda: _rewrite(_save(_DATES), lambda name, part: b"<a/>" if name == "xl/workbook.xml" else part),
        "save it as XLSX anew|a sheet with a heading",
    ),
}


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _break(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        at = archive.getinfo(_SHEET).header_offset + 90
    return content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 40]) + content[at + 40 :]


@pytest.mark.parametrize("case", HARMFUL)
def test_harmful_workbook_is_refused_in_little_memory(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    build, rule = HARMFUL[case]
    content = build()
    if case == "larger than allowed" or "262144" in rule:
        # The same bounds in small; the test need not write gigabytes.
        monkeypatch.setattr(xlsx_files, "MAX_UNPACKED_BYTES", 2 << 20)
        monkeypatch.setattr(xlsx_files, "MAX_PART_BYTES", 1 << 18)
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match=rule):
            _read(content, build_series_contract("m"))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 32 << 20


def test_bomb_is_refused_before_any_of_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_to_unpack(*_: object, **__: object) -> None:
        raise AssertionError("something was unpacked")

    content = _bomb(_SHEET, 120 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "open", refuse_to_unpack)

    with pytest.raises(Unreadable, match="at most 100 times"):
        _read(content, build_series_contract("m"))


def test_large_sheet_is_no_large_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx_files, "MAX_PART_BYTES", 1 << 14)
    rows: list[list[Any]] = [["a", "b"], *([at, at] for at in range(2000))]
    contract = build_table_contract("m", Column(name="a", dtype="integer"), Column(name="b", dtype="integer"))

    assert len(_read(_save(rows), contract)[0]) == 2000


def test_row_far_below_is_refused_without_counting_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx_files, "MAX_ROWS", 1_000)
    content = _rewrite(
        _save(_DATES), lambda _, part: part.replace(b'<row r="3">', b'<row r="99999999999">').replace(b'r="A3"', b"")
    )

    with pytest.raises(Unreadable, match="a sheet has at most 1000 rows"):
        _read(content, build_series_contract("m"))
