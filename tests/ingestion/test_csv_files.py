"""Reading CSV in the forms that people really have; line numbers are checked against Python's own csv module."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Column, Contract
from ingestion import csv_files
from ingestion.csv_files import CsvHeading, read_heading, read_rows
from ingestion.encodings import MAX_LINE_BYTES
from ingestion.faults import RowFault, Unreadable
from ingestion.receiving import receiving
from tests.ingestion.series import build_series_contract, build_table_contract


def _read(content: bytes, contract: Contract) -> tuple[CsvHeading, list[tuple[int, dict[str, str]]], list[RowFault]]:
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[RowFault] = []
    with receiving(io.BytesIO(content), model="m", name="x", max_bytes=1 << 30) as received:
        heading = read_heading(received.copy, contract)
        for chunk in read_rows(received, heading):
            for at, line in enumerate(chunk.lines.tolist()):
                rows.append((line, {name: cells[at].as_py() for name, cells in chunk.cells.items()}))
            faults += chunk.faults
    return heading, rows, faults


@pytest.mark.parametrize("mark", [b"", "\ufeff".encode()], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_dialects_are_read_alike(mark: bytes, end: bytes, delimiter: str) -> None:
    lines = [["close", "extra", "Date"], ["1.5", "a", "2024-01-01"], ["2.5", "b", "2024-01-02"]]
    content = mark + end.join(delimiter.join(line).encode() for line in lines) + end

    heading, rows, faults = _read(content, build_series_contract("m"))

    assert (heading.columns, heading.ignored, heading.delimiter) == ({"Close": 0, "Date": 2}, ("extra",), delimiter)
    assert rows == [(2, {"Date": "2024-01-01", "Close": "1.5"}), (3, {"Date": "2024-01-02", "Close": "2.5"})]
    assert faults == []


def test_heading_matches_exact_names_before_aliases() -> None:
    heading, _, _ = _read(b"Day,Date,Close\nx,2024-01-01,1\n", build_series_contract("m"))

    assert heading.columns == {"Date": 1, "Close": 2}
    assert heading.ignored == ("Day",)


def test_three_line_heading_of_yfinance_is_read() -> None:
    content = b"Price,Close,Volume\nTicker,BTC-USD,BTC-USD\nDate,,\n2024-01-01,1,2\n"

    heading, rows, _ = _read(content, build_series_contract("m"))

    assert (heading.columns, heading.first_line) == ({"Date": 0, "Close": 1, "Volume": 2}, 4)
    assert rows == [(4, {"Date": "2024-01-01", "Close": "1", "Volume": "2"})]


def test_yfinance_file_of_two_instruments_is_refused() -> None:
    content = b"Price,Close,Close\nTicker,BTC-USD,ETH-USD\nDate,,\n2024-01-01,1,2\n"

    with pytest.raises(Unreadable, match="line 2: 'BTC-USD, ETH-USD' is not allowed, one instrument in a file"):
        _read(content, build_series_contract("m"))


def test_lines_are_right_after_quoted_ends_of_lines_and_rows_that_are_refused() -> None:
    content = b'"a","b"\n"x\ny\n",1\n\nz\n"p ""q""\r\nr",2\n1,2,3\nlast,3\n'
    contract = build_table_contract("m", Column(name="a", dtype="text"), Column(name="b", dtype="float"))

    _, rows, faults = _read(content, contract)

    assert rows == [(2, {"a": "x\ny\n", "b": "1"}), (7, {"a": 'p "q"\r\nr', "b": "2"}), (10, {"a": "last", "b": "3"})]
    assert [(fault.line, fault.value) for fault in faults] == [(6, "z"), (9, "1,2,3")]


_cells = st.text(alphabet=st.sampled_from('ab",\n é'), max_size=6)


@given(
    rows=st.lists(st.tuples(_cells, _cells, _cells), min_size=1, max_size=30), block=st.sampled_from([64, 256, 4096])
)
def test_rows_and_lines_agree_with_pythons_csv_module(rows: list[tuple[str, str, str]], block: int) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    reader = csv.reader(io.StringIO(text.getvalue(), newline=""))
    expected = []
    begin = 1
    for record in reader:
        if begin > 1 and any(record):
            expected.append((begin, dict(zip("abc", record, strict=True))))
        begin = reader.line_num + 1
    contract = build_table_contract("m", *(Column(name=name, dtype="text") for name in "abc"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "CHUNK_BYTES", block)
        _, found, faults = _read(text.getvalue().encode(), contract)

    assert found == expected
    assert faults == []


def test_rows_come_in_chunks_and_lines_go_on_across_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", 512)
    lines = [f"{at},{at}" if at % 7 else "bad" for at in range(1, 2000)]
    contract = build_table_contract("m", Column(name="a", dtype="integer"), Column(name="b", dtype="integer"))

    _, rows, faults = _read(("a,b\n" + "\n".join(lines)).encode(), contract)

    assert [(line, row["a"]) for line, row in rows] == [(at + 1, str(at)) for at in range(1, 2000) if at % 7]
    assert [fault.line for fault in faults] == [at + 1 for at in range(1, 2000) if at % 7 == 0]


def test_row_without_end_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", 512)
    content = b"a,b\n" + b"1,2\n" * 200 + b'"' + b"1,2\n" * 1000
    contract = build_table_contract("m", Column(name="a", dtype="text"), Column(name="b", dtype="text"))

    with pytest.raises(Unreadable, match="look for a quote that is not closed"):
        _read(content, contract)


def test_line_of_the_largest_length_is_read() -> None:
    content = b"a,b\n" + b"x" * (MAX_LINE_BYTES - 2) + b",1\n"
    contract = build_table_contract("m", Column(name="a", dtype="text"), Column(name="b", dtype="float"))

    _, rows, _ = _read(content, contract)

    assert len(rows[0][1]["a"]) == MAX_LINE_BYTES - 2


def test_undecodable_byte_is_named_with_its_line_across_pieces(tmp_path: Path) -> None:
    # The two bytes of one letter fall into two pieces; that is no fault. A lone byte two lines further is one.
    start = b"a\n" * ((1 << 19) - 1) + b"a"
    content = start + "é".encode() + b"\nok\n\xe9\n"
    path = tmp_path / "x.csv"
    path.write_bytes(content)

    with receiving(path, model="m", name="x", max_bytes=1 << 30) as received:
        fault = received.fault

    assert len(start) == (1 << 20) - 1
    assert fault is not None
    assert fault.line == (1 << 19) + 2
    assert "byte e9, not UTF-8" in fault.value
