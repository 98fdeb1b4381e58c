"""Files in the forms and dialects that people really have: read rightly, or refused with what to change."""

import io
import json
from datetime import date, datetime, timedelta
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from core.contract import Column, Contract
from core.data_errors import RowsRejected
from core.errors import DeclarationRejected
from ingestion.encodings import Encoding
from ingestion.importing import ImportResult, import_file
from ingestion.store import load_observations
from tests.ingestion.series import FIRST_DAY, build_fleet_contract, build_series_contract, build_table_contract

_DAYS = [FIRST_DAY + timedelta(days=at) for at in range(6)]
_CLOSES = [10.5, 11.25, 12.0, 1e-5 + 13, 1234.5678, 0.1 + 0.2 + 5]
_VOLUMES: list[float | None] = [100.0, None, 3.0, None, 5.0, 6.5]


def _import(engine: Engine, contract: Contract, content: bytes, **options: Any) -> ImportResult:
    return import_file(engine, contract, io.BytesIO(content), name="file", actor="test", **options)


def _load(engine: Engine, contract: Contract) -> pd.DataFrame:
    with engine.connect() as connection:
        return load_observations(connection, contract)


def _write_csv() -> bytes:
    rows = [f"{day},{close!r},{'' if volume is None else volume}" for day, close, volume in _rows()]
    return "\n".join(["Date,Close,Volume", *rows]).encode()


def _write_xlsx() -> bytes:
    workbook = openpyxl.Workbook()
    sheet = workbook.worksheets[0]
    sheet.append(["Date", "Close", "Volume"])
    for day, close, volume in _rows():
        sheet.append([datetime(day.year, day.month, day.day), close, volume])  # noqa: DTZ001 - cells have no zone
    return _save(workbook)


def _write_parquet() -> bytes:
    columns = {
        "Date": pa.array(_DAYS, pa.date32()),
        "Close": pa.array(_CLOSES, pa.float64()),
        "Volume": pa.array(_VOLUMES, pa.float64()),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


def _write_json() -> bytes:
    return (
        pd.DataFrame({"Date": map(str, _DAYS), "Close": _CLOSES, "Volume": _VOLUMES})
        .to_json(orient="records", double_precision=15)
        .encode()
    )


def _rows() -> list[tuple[date, float, float | None]]:
    return list(zip(_DAYS, _CLOSES, _VOLUMES, strict=True))


def _save(workbook: openpyxl.Workbook) -> bytes:
    file = io.BytesIO()
    workbook.save(file)
    return file.getvalue()


def test_same_rows_as_csv_xlsx_parquet_and_json_are_the_same_observations(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)

    first = _import(engine, contract, _write_csv())
    stored = _load(engine, contract)
    again = [_import(engine, contract, write()) for write in (_write_xlsx, _write_parquet, _write_json)]

    assert first.rows_new == 6
    assert [(result.rows_new, result.rows_changed, result.rows_unchanged) for result in again] == [(0, 0, 6)] * 3
    assert stored["Close"].tolist() == _CLOSES
    assert stored["Volume"].fillna(-1).tolist() == [100.0, -1, 3.0, -1, 5.0, 6.5]


@pytest.mark.parametrize("write", [_write_csv, _write_xlsx, _write_parquet, _write_json])
def test_each_form_stores_the_same_rows_alone_and_ends_its_progress(engine: Engine, model: str, write: Any) -> None:
    contract = build_series_contract(model)
    content = write()
    progress: list[tuple[int, int]] = []

    _import(engine, contract, content, on_progress=lambda done, size: progress.append((done, size)))

    stored = _load(engine, contract)
    assert stored["Close"].tolist() == _CLOSES
    assert [str(at.date()) for at in stored["Date"]] == [str(day) for day in _DAYS]
    assert progress[-1] == (len(content), len(content))


_PLAIN = "Date,Close,Ort\n" + "".join(f"{day},{at + 1},Köln\n" for at, day in enumerate(_DAYS))
_GERMAN = "Date;Close;Ort\n" + "".join(f"{day};{at + 1},5;Köln\n" for at, day in enumerate(_DAYS))
_ENDS = [float(at + 1) for at in range(6)]
_HALVES = [at + 1.5 for at in range(6)]
_WIDE = ",".join([*(f"c{at}" for at in range(3000)), "Close", "Ort", "Date"])

# What people have: bytes, what they say about them, and the closes that are stored.
READ: dict[str, tuple[bytes, Encoding | None, list[float]]] = {
    "plain": (_PLAIN.encode(), None, _ENDS),
    "UTF-8 said": (_PLAIN.encode(), "utf-8", _ENDS),
    "BOM": (_PLAIN.encode("utf-8-sig"), None, _ENDS),
    "UTF-16": (_PLAIN.encode("utf-16"), None, _ENDS),
    "UTF-16 of the other order": (b"\xfe\xff" + _PLAIN.encode("utf-16-be"), None, _ENDS),
    "UTF-16 as a spreadsheet writes it": (
        _PLAIN.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
        None,
        _ENDS,
    ),
    "Latin-1 said": (_PLAIN.encode("latin-1"), "latin-1", _ENDS),
    "Windows-1252 said": (_PLAIN.replace("Köln", "Köln “€”").encode("windows-1252"), "windows-1252", _ENDS),
    "decimal comma": (_GERMAN.encode(), None, _HALVES),
    "decimal comma, Windows-1252, CRLF": (
        _GERMAN.replace("\n", "\r\n").encode("windows-1252"),
        "windows-1252",
        _HALVES,
    ),
    "tab": (_PLAIN.replace(",", "\t").encode(), None, _ENDS),
    "sep line": (b"sep=;\r\n" + _GERMAN.encode(), None, _HALVES),
    "heading in another case, columns in another order": (
        ("oRT,CLOSE,date\n" + "".join(f"Köln,{at + 1},{day}\n" for at, day in enumerate(_DAYS))).encode(),
        None,
        _ENDS,
    ),
    "thousands of columns": (
        (_WIDE + "\n" + "".join("," * 3000 + f"{at + 1},Köln,{day}\n" for at, day in enumerate(_DAYS))).encode(),
        None,
        _ENDS,
    ),
    "quoted ends of lines": (_PLAIN.replace("Köln", '"Kö\nln, ""am"" Rhein"').encode(), None, _ENDS),
    "empty cells and blank lines": (_PLAIN.replace("Köln", "").replace("\n", "\n\n").encode(), None, _ENDS),
    "spaces around": (_PLAIN.replace(",", " , ").encode(), None, _ENDS),
}


@pytest.mark.parametrize("case", READ)
def test_dialect_is_read_rightly(engine: Engine, model: str, case: str) -> None:
    content, encoding, closes = READ[case]
    contract = build_series_contract(model, extra=(Column(name="Ort", dtype="text", is_nullable=True),))

    _import(engine, contract, content, encoding=encoding)

    stored = _load(engine, contract)
    assert stored["Close"].tolist() == closes
    assert set(stored["Ort"].fillna("")) <= {"Köln", "Köln “€”", 'Kö\nln, "am" Rhein', ""}


REFUSED: dict[str, tuple[bytes, Encoding | None, str, str]] = {
    "Latin-1 not said": (_PLAIN.encode("latin-1"), None, "line 2", "say encoding latin-1 or windows-1252"),
    "UTF-8 said to be Latin-1": (_PLAIN.encode(), "latin-1", "line 1", "leave encoding latin-1 out"),
    "BOM said to be Latin-1": (_PLAIN.encode("utf-8-sig"), "latin-1", "line 1", "leave encoding latin-1 out"),
    "Windows-1252 said to be Latin-1": (
        _PLAIN.replace("Köln", "5 €").encode("windows-1252"),
        "latin-1",
        "line 2",
        "say encoding windows-1252",
    ),
    "no letter of Windows-1252": (_PLAIN.encode().replace(b"K", b"\x81"), "windows-1252", "line 2", "save it as UTF-8"),
    "UTF-16 without a mark": (_PLAIN.encode("utf-16-le"), None, "line 1", "save it as CSV, encoded as UTF-8"),
    "thousands": (b'Date,Close\n2021-01-01,"1,234.5"\n', None, "line 2, column Close", "without signs for thousands"),
    "thousands with tabs": (b"Date\tClose\n2021-01-01\t1,234\n", None, "line 2, column Close", "signs for thousands"),
    "thousands and decimal comma": (b"Date;Close\n2021-01-01;1.234,5\n", None, "line 2, column Close", "one decimal"),
    "thousands by spaces": (b"Date,Close\n2021-01-01,1 234.5\n", None, "line 2, column Close", "signs for thousands"),
    "thousands by points": (b"Date;Close\n2021-01-01;1.234.567\n", None, "line 2, column Close", "for thousands"),
    "day first": (b"Date,Close\n31/12/2024,1\n", None, "line 2, column Date", "as in 2024-01-31"),
    "day first with points": (b"Date;Close\n31.12.2024;1\n", None, "line 2, column Date", "as in 2024-01-31"),
    "NA": (b"Date,Close\n2021-01-01,NA\n", None, "line 2, column Close", "what is unknown stays empty"),
    "null": (b"Date,Close,Volume\n2021-01-01,1,null\n", None, "line 2, column Volume", "what is unknown stays empty"),
    "another delimiter": (b"Date|Close\n2021-01-01|1\n", None, "line 1, column Date", "a column with heading Date"),
    "a page": (b"\n<!DOCTYPE html><html>log in</html>", None, "line 1", "save it as CSV, XLSX or Parquet"),
    "gzip": (b"\x1f\x8b\x08\x00", None, "line 1", "unpack it"),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None, "line 1", "save it as XLSX without a password"),
    "JSON of one object": (b'{"data": [{"Date": "2021-01-01", "Close": 1}]}', None, "line 1, column Date", "Date"),
    "JSON of arrays": (b"[[1, 2]]", None, "line 1", "a JSON object with the columns as members is needed"),
    "JSON cut off": (b'[{"Date": "2021-01-01"', None, "line 1", "an array of objects is needed"),
    "JSON with a list in a cell": (
        b'[{"Date": "2021-01-01", "Close": [1]}]',
        None,
        "line 1, column Close",
        "plain value",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_dialect_is_refused_with_what_to_change(engine: Engine, model: str, case: str) -> None:
    content, encoding, where, rule = REFUSED[case]
    contract = build_series_contract(model, extra=(Column(name="Ort", dtype="text", is_nullable=True),))

    with pytest.raises(RowsRejected) as caught:
        _import(engine, contract, content, encoding=encoding)

    assert caught.value.faults[0].where == where
    assert rule in caught.value.faults[0].rule


def test_declared_form_of_times_is_read_and_no_other(engine: Engine, model: str) -> None:
    columns = (Column(name="at", dtype="time", time_format="%d/%m/%Y"), Column(name="x", dtype="float"))
    contract = build_table_contract(model, *columns, id_column="at").model_copy(update={"features": ("x",)})

    _import(engine, contract, b"at,x\n31/12/2024,1\n01/02/2024,2\n")
    for wrong in (b"30/02/2024", b"2024-01-31", b"12/31/2024"):
        with pytest.raises(RowsRejected, match="a time in the form %d/%m/%Y is needed"):
            _import(engine, contract, b"at,x\n" + wrong + b",1\n")

    with engine.connect() as connection:
        stored = connection.execute(text(f"SELECT at AT TIME ZONE 'UTC', x FROM observations_{model} ORDER BY x")).all()  # noqa: S608 - own name
    assert [tuple(row) for row in stored] == [(datetime(2024, 12, 31), 1.0), (datetime(2024, 2, 1), 2.0)]  # noqa: DTZ001 - cells have no zone


def test_form_of_times_belongs_to_a_column_of_times() -> None:
    with pytest.raises(DeclarationRejected, match="has a time_format but is of type float"):
        build_table_contract("m", Column(name="x", dtype="float", time_format="%Y"))


@pytest.mark.parametrize("cell", ["=1+1", "=HYPERLINK(1)", "+1", "@x", "-2"])
def test_cell_that_looks_like_a_formula_stays_what_it_is(engine: Engine, model: str, cell: str) -> None:
    contract = build_table_contract(model, Column(name="note", dtype="text"), Column(name="y", dtype="float"))

    _import(engine, contract, f"note,y\n{cell},1\n".encode())

    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT note FROM observations_{model}")) == cell  # noqa: S608 - own name


def test_option_that_the_form_does_not_have_is_refused(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)

    for content, options, rule in (
        (_write_csv(), {"sheet": "Sheet"}, "only a workbook has sheets"),
        (_write_parquet(), {"encoding": "latin-1"}, "leave the encoding out"),
        (_write_xlsx(), {"encoding": "latin-1"}, "leave the encoding out"),
    ):
        with pytest.raises(RowsRejected, match=rule):
            _import(engine, contract, content, **options)


def test_columns_of_ndjson_may_differ_from_line_to_line(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    lines = [f'{{"close": {close!r}, "DATE": "{day}"}}' for day, close, _ in _rows()]
    lines[2] = f'{{"Date": "{_DAYS[2]}", "date": "{_DAYS[2]}", "Close": 12.0}}'

    with pytest.raises(RowsRejected, match="line 3, column Date: .* one member stands for Date"):
        _import(engine, contract, "\n".join(lines).encode())
    lines[2] = f'{{"Date": "{_DAYS[2]}", "Close": 12.0, "Volume": 7}}'
    _import(engine, contract, "\n".join(["", *lines]).encode())

    assert _load(engine, contract)["Volume"].fillna(-1).tolist() == [-1, -1, 7, -1, -1, -1]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_key_that_no_index_takes_is_refused(engine: Engine, model: str, form: str) -> None:
    contract = build_fleet_contract(model)
    row = {"machine": "ü" * 251, "at": "2024-01-01", "value": 1.0}
    content = pd.DataFrame([row]).to_csv(index=False) if form == "csv" else json.dumps([row])

    with pytest.raises(RowsRejected, match="a key of at most 500 bytes"):
        _import(engine, contract, content.encode())


def test_text_with_nul_is_refused_and_named(engine: Engine, model: str) -> None:
    contract = build_table_contract(model, Column(name="note", dtype="text"), Column(name="y", dtype="float"))

    with pytest.raises(RowsRejected, match=r"line 1, column note: 'a\\\\x00b' is not allowed, text without"):
        _import(engine, contract, b'[{"note": "a\\u0000b", "y": 1}]')
