"""Importing whole files: what is stored, what is refused, and what is left behind by either."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, func, select

from core.contract import Column
from core.data_errors import RowsRejected
from core.tables.data import source_pieces, sources
from ingestion.importing import import_file
from ingestion.store import load_observations
from tests.ingestion.series import (
    STEPS,
    build_fleet_contract,
    build_series_contract,
    build_table_contract,
    count_rows,
    import_bytes,
    load_rejected,
    write_days,
)
from workloads.catalogue import get_workload

GOOD = write_days(0, [10.0, 11.0, 12.0, 13.0, 14.0, 15.0])


def test_real_prices_are_stored_as_pandas_reads_them(engine: Engine, model: str, shared_data: Path) -> None:
    path = shared_data / "btc_usd_daily.csv"
    contract = get_workload("prices").build_contract().model_copy(update={"model": model})
    progress: list[tuple[int, int]] = []

    result = import_file(
        engine,
        contract,
        path,
        name=path.name,
        actor="test",
        on_progress=lambda done, total: progress.append((done, total)),
    )

    expected = pd.read_csv(
        path,
        skiprows=3,
        names=["Date", "Close", "High", "Low", "Open", "Volume"],
        parse_dates=["Date"],
        float_precision="round_trip",
    )
    with engine.connect() as connection:
        stored = load_observations(connection, contract)
    assert (result.rows_new, result.rows_changed, result.rows_unchanged, result.gaps) == (4109, 0, 0, 0)
    assert (stored["Date"].dt.tz_localize(None) == expected["Date"]).all()
    for name in ("Close", "Open", "High", "Low", "Volume"):
        np.testing.assert_array_equal(stored[name], expected[name])
    assert progress[-1] == (path.stat().st_size, path.stat().st_size)


def test_import_keeps_the_raw_bytes_and_where_each_row_came_from(engine: Engine, model: str) -> None:
    result = import_bytes(engine, build_series_contract(model), GOOD)

    with engine.connect() as connection:
        source = connection.execute(select(sources).where(sources.c.model == model)).one()
        pieces = connection.scalars(
            select(source_pieces.c.content)
            .where(source_pieces.c.source_id == source.id)
            .order_by(source_pieces.c.piece)
        )
        raw = b"".join(zlib.decompress(piece) for piece in pieces)
        rows = connection.exec_driver_sql(
            f'SELECT source_id, source_line FROM observations_{model} ORDER BY "Date"'  # noqa: S608 - own name
        ).all()
    assert raw == GOOD
    assert (source.state, source.sha256, source.bytes) == ("imported", hashlib.sha256(GOOD).hexdigest(), len(GOOD))
    assert source.rows_new == 6
    assert [tuple(row) for row in rows] == [(result.source_id, line) for line in range(2, 8)]


def test_same_file_twice_changes_nothing(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    first = import_bytes(engine, contract, GOOD)
    second = import_bytes(engine, contract, GOOD)

    assert (second.rows_new, second.rows_changed, second.rows_unchanged) == (0, 0, 6)
    with engine.connect() as connection:
        owners = connection.exec_driver_sql(f"SELECT DISTINCT source_id FROM observations_{model}").scalars().all()  # noqa: S608 - own name
        kept = connection.scalar(
            select(func.count()).select_from(source_pieces.join(sources)).where(sources.c.model == model)
        )
    assert owners == [first.source_id]
    assert kept == 1


def test_import_counts_new_changed_and_unchanged_rows(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    import_bytes(engine, contract, GOOD)

    result = import_bytes(engine, contract, write_days(4, [14.0, 99.0, 16.0]))

    assert (result.rows_new, result.rows_changed, result.rows_unchanged) == (1, 1, 1)
    with engine.connect() as connection:
        assert load_observations(connection, contract)["Close"].tolist() == [10, 11, 12, 13, 14, 99, 16]


def test_columns_that_a_file_lacks_keep_their_stored_values(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    with_volume = "Date,Close,Volume\n" + "".join(f"2021-01-0{day},1{day},{day}00\n" for day in range(1, 7))
    import_bytes(engine, contract, with_volume.encode())

    import_bytes(engine, contract, b"Date,Close\n2021-01-02,77\n")

    with engine.connect() as connection:
        stored = load_observations(connection, contract)
    assert stored["Close"].tolist() == [11, 77, 13, 14, 15, 16]
    assert stored["Volume"].tolist() == [100, 200, 300, 400, 500, 600]


def test_rows_may_come_newest_first_and_extra_columns_are_named(engine: Engine, model: str) -> None:
    content = "close,note,DAY\n" + "".join(f"1{day},x,2021-01-0{day}\n" for day in range(6, 0, -1))

    result = import_bytes(engine, build_series_contract(model), content.encode())

    assert (result.rows_new, result.ignored_columns) == (6, ("note",))
    assert str(result.first_at) == "2021-01-01 00:00:00+00:00"
    assert str(result.last_at) == "2021-01-06 00:00:00+00:00"


BAD_FILES = {
    "missing column": (b"Date,Price\n2021-01-07,1\n", (1, "Close"), "a column with heading Close"),
    "duplicate date, other value": (write_days(6, [1, 2]) + b"2021-01-08,9\n", (4, "Date"), "line 3 has it too"),
    "duplicate date, same value": (write_days(6, [1, 2]) + b"2021-01-08,2\n", (4, "Date"), "line 3 has it too"),
    "gap in the file": (
        write_days(6, [1, 2]) + b"2021-01-11,3\n",
        (4, "Date"),
        "2021-01-09 is needed, one step of 1 day",
    ),
    "gap after the stored rows": (write_days(8, [1, 2]), (2, "Date"), "2021-01-07 is needed"),
    "gap before the stored rows": (write_days(-5, [1, 2]), (3, "Date"), "rows up to 2020-12-31 are needed"),
    "off the grid": (b"Date,Close\n2021-01-07T06:00,1\n", (2, "Date"), "2021-01-07 is needed"),
    "not a number": (b"Date,Close\n2021-01-07,abc\n", (2, "Close"), "a finite number"),
    "number with thousands": (b'Date,Close\n2021-01-07,"1,000.5"\n', (2, "Close"), "without signs for thousands"),
    "nan": (b"Date,Close\n2021-01-07,NaN\n", (2, "Close"), "a finite number"),
    "infinity": (b"Date,Close\n2021-01-07,-inf\n", (2, "Close"), "a finite number"),
    "overflow": (b"Date,Close\n2021-01-07,1e999\n", (2, "Close"), "a finite number"),
    "empty cell": (b"Date,Close\n2021-01-07,\n", (2, "Close"), "a value is needed"),
    "out of bounds": (b"Date,Close\n2021-01-07,0.25\n", (2, "Close"), "at least 0.5 USD"),
    "not a date": (b"Date,Close\n2021-02-30,1\n", (2, "Date"), "a date or time"),
    "future": (b"Date,Close\n2999-01-01,1\n", (2, "Date"), "no later than now"),
    "Latin-1": ("Date,Close,Größe\n2021-01-07,1,2\n".encode("latin-1"), (1, ""), "save it as UTF-8"),
    "Latin-1 below": (b"Date,Close,x\n2021-01-07,1,a\n2021-01-08,1,\xe9\n", (3, ""), "save it as UTF-8"),
    "cut off inside a letter": (b"Date,Close,x\n2021-01-07,1,\xc3", (2, ""), "save it as UTF-8"),
    "UTF-16 cut off": ("Date,Close\n2021-01-07,1\n".encode("utf-16")[:-1], (2, ""), "save it as UTF-8"),
    "UTF-16 without mark": ("Date,Close\n2021-01-07,1\n".encode("utf-16-le"), (1, ""), "encoded as UTF-8"),
    "XLSX cut off": (b"PK\x03\x04rest", None, "send the whole file"),
    "binary": (b"Date,Close\n\x00\x01\x02\xff", (2, ""), "encoded as UTF-8"),
    "empty": (b"", (1, ""), "a heading and at least one row"),
    "blank": (b"\n \n\n", (1, ""), "a heading and at least one row"),
    "no rows": (b"Date,Close\n", (2, ""), "at least one row"),
    "only blank rows": (b"Date,Close\n\n,\n", (2, ""), "at least one row"),
    "too few cells": (b"Date,Close\n2021-01-07\n", (2, ""), "2 cells are needed"),
    "cut off": (b"Date,Close\n2021-01-07,1\n2021-0", (3, ""), "2 cells are needed"),
    "heading twice": (b"Date,Close,close\n2021-01-07,1,2\n", (1, "Close"), "one column stands for Close"),
    "two decimal marks": (b"Date;Close\n2021-01-07;1,5\n2021-01-08;1.5\n", (3, "Close"), "one decimal mark"),
    "quote not closed": (b'Date,Close,note\n2021-01-07,1,"x\n2021-01-08,2,y\n', (2, ""), "quoted cell is closed"),
    "endless line": (b"Date,Close\n" + b"1" * (3 << 20), (2, ""), "a line is no longer"),
    "endless heading": (b"a," * (1 << 20), (1, ""), "a line is no longer"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_by_line_column_and_rule_and_nothing_of_it_is_stored(
    engine: Engine, model: str, case: str
) -> None:
    content, place, rule = BAD_FILES[case]
    contract = build_series_contract(model)
    import_bytes(engine, contract, GOOD)

    with pytest.raises(RowsRejected) as caught:
        import_bytes(engine, contract, content, name="bad.csv")

    where = ", ".join([f"line {place[0]}", *([f"column {place[1]}"] if place[1] else [])]) if place else "the input"
    assert caught.value.faults[0].where == where
    assert rule in caught.value.faults[0].rule
    assert str(caught.value).startswith(f"bad.csv was not imported into {model!r}, 1 fault(s): {where}: ")
    assert count_rows(engine, model) == 6
    rejected = load_rejected(engine, model)
    assert [(line, column) for line, column, _, _ in rejected] == [place or (None, "")]
    assert rule in rejected[0][3]
    with engine.connect() as connection:
        states = connection.execute(select(sources.c.state, sources.c.rows_rejected).where(sources.c.model == model))
        assert sorted(tuple(row) for row in states) == [("imported", 0), ("rejected", 1 if place else 0)]


def test_too_few_rows_for_one_window_are_refused(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)

    with pytest.raises(RowsRejected, match=f"'{STEPS} rows' is not allowed, {STEPS + 1} rows are needed"):
        import_bytes(engine, contract, write_days(0, [1.0] * STEPS))

    assert count_rows(engine, model) == 0
    assert import_bytes(engine, contract, write_days(0, [1.0] * (STEPS + 1))).rows_new == STEPS + 1
    assert import_bytes(engine, contract, write_days(STEPS + 1, [1.0])).rows_new == 1


def test_every_fault_is_kept_and_the_error_shows_a_few(engine: Engine, model: str) -> None:
    content = write_days(0, [0.1] * 500)

    with pytest.raises(RowsRejected) as caught:
        import_bytes(engine, build_series_contract(model), content)

    assert caught.value.total == 500
    assert len(caught.value.faults) == 100
    assert len(str(caught.value)) < 1_000
    assert [row[0] for row in load_rejected(engine, model)] == list(range(2, 502))


def test_rejected_file_can_be_corrected_and_imported(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    with pytest.raises(RowsRejected):
        import_bytes(engine, contract, GOOD.replace(b"12.0", b"twelve"))

    assert import_bytes(engine, contract, GOOD).rows_new == 6


def test_file_larger_than_allowed_is_refused_before_it_is_taken_in(engine: Engine, model: str, tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    path.write_bytes(GOOD)

    for source in (path, io.BytesIO(GOOD)):
        with pytest.raises(RowsRejected, match="at most 50 bytes are taken"):
            import_file(engine, build_series_contract(model), source, name="large.csv", actor="test", max_bytes=50)

    assert count_rows(engine, model) == 0


def test_gaps_are_stored_and_reported_where_the_workload_allows_them(engine: Engine, model: str) -> None:
    contract = build_series_contract(model, gaps="allow")

    result = import_bytes(engine, contract, write_days(0, [1, 2, 3, 4, 5]) + write_days(9, [6]).split(b"\n")[1] + b"\n")

    assert (result.rows_new, result.gaps) == (6, 1)


def test_steps_are_judged_for_each_entity_on_its_own(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model, gaps="refuse")
    rows = [f"{machine},2024-01-01 00:{minute:02},1" for minute in (0, 5, 10) for machine in ("a", "b")]
    import_bytes(engine, contract, "\n".join(["machine,at,value", *rows]).encode())

    joined = import_bytes(engine, contract, b"machine,at,value\na,2024-01-01 00:15,1\nc,2023-05-05,1\n")
    with pytest.raises(
        RowsRejected, match="line 2, column at: '2024-01-01T00:20:00Z' is not allowed, 2024-01-01T00:15:00Z"
    ):
        import_bytes(engine, contract, b"machine,at,value\nb,2024-01-01 00:20,1\na,2024-01-01 00:20,1\n")

    assert joined.rows_new == 2
    assert count_rows(engine, model) == 8


def test_repeated_rows_of_an_irregular_series_are_one_row(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model)
    head = b"machine,at,value\na,2024-01-01,1\na,2024-01-02,2\na,2024-01-03,3\n"

    result = import_bytes(engine, contract, head + b"a,2024-01-02,2.0\n")
    with pytest.raises(RowsRejected, match=r"line 5, column at: .*line 3 has it too"):
        import_bytes(engine, contract, head + b"a,2024-01-02,2.5\n")

    assert (result.rows_new, result.rows_repeated) == (3, 1)


def test_real_temperatures_name_the_hour_that_came_twice(engine: Engine, model: str, shared_data: Path) -> None:
    columns = (Column(name="timestamp", dtype="time"), Column(name="value", dtype="float"))
    contract = build_series_contract(model).model_copy(
        update={"columns": columns, "key": build_series_contract(model).key.model_copy(update={"time": "timestamp"})}
    )
    contract = contract.model_copy(update={"step_s": 300.0, "gaps": "allow", "target": "value", "features": ("value",)})
    path = shared_data / "machine_temperature.csv"

    with pytest.raises(RowsRejected) as caught:
        import_file(engine, contract, path, name=path.name, actor="test")

    times = pd.read_csv(path)["timestamp"]
    assert [fault.where for fault in caught.value.faults] == [
        f"line {at + 2}, column timestamp" for at in np.flatnonzero(times.duplicated())
    ]


def test_rows_without_time_or_id_are_known_by_their_values(engine: Engine, model: str) -> None:
    contract = build_table_contract(
        model, Column(name="x", dtype="float"), Column(name="y", dtype="text", is_nullable=True)
    )

    first = import_bytes(engine, contract, b"x,y\n1,a\n2,\n1.0,a\n")
    again = import_bytes(engine, contract, b"y,x\n,2\na,1\nb,1\n")

    assert (first.rows_new, first.rows_repeated) == (2, 1)
    assert (again.rows_new, again.rows_changed, again.rows_unchanged) == (1, 0, 2)


def test_two_imports_at_once_store_every_row_once(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    closes = [float(value) for value in range(1, 2001)]
    start = threading.Barrier(2)

    def run(content: bytes) -> int:
        start.wait()
        return import_bytes(engine, contract, content).rows_new

    with ThreadPoolExecutor(2) as pool:
        new = list(pool.map(run, [write_days(0, closes[:1500]), write_days(0, closes[:1200])]))

    assert sum(new) == 1500
    assert count_rows(engine, model) == 1500


_IMPORT_AND_HANG = """
import sys, time
from pathlib import Path
from core.contract import Contract
from core.database import create_database_engine
from ingestion.importing import import_file

def hang(done, total):
    print("staged", flush=True)
    time.sleep(600)

contract = Contract.model_validate_json(sys.argv[2])
import_file(create_database_engine(sys.argv[1]), contract, Path(sys.argv[3]), name="x", actor="test", on_progress=hang)
"""


def test_import_that_is_killed_leaves_nothing_and_the_next_one_goes_on(
    engine: Engine, database_url: str, model: str, tmp_path: Path
) -> None:
    contract = build_series_contract(model)
    path = tmp_path / "rows.csv"
    path.write_bytes(GOOD)
    arguments = [sys.executable, "-c", _IMPORT_AND_HANG, database_url, contract.model_dump_json(), str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"staged\n"
        os.kill(process.pid, signal.SIGKILL)

    assert count_rows(engine, model) == 0
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(sources.c.model == model)) == 0
    assert import_bytes(engine, contract, GOOD).rows_new == 6
