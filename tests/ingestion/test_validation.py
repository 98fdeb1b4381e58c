"""Cells against the contract's rules, one dtype at a time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Column, Contract
from ingestion.faults import RowFault
from ingestion.files import TextRows
from ingestion.validation import RowChecker
from tests.ingestion.series import build_fleet_contract, build_series_contract, build_table_contract

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def _check(
    contract: Contract, cells: dict[str, list[str]], *, has_decimal_comma: bool = False
) -> tuple[dict[str, list[object]], list[RowFault]]:
    lines = np.arange(2, 2 + len(next(iter(cells.values()))))
    rows = TextRows(lines, {name: pa.array(values, pa.string()) for name, values in cells.items()}, (), 0)
    checked = RowChecker(contract, has_decimal_comma=has_decimal_comma, now=NOW).check(rows)
    return checked.table.to_pydict(), list(checked.faults)


def _check_one(column: Column, values: list[str], *, has_decimal_comma: bool = False) -> tuple[list[object], list[int]]:
    """Values that pass, and places of those that do not, of one column."""
    table, faults = _check(
        build_table_contract("m", column), {column.name: values}, has_decimal_comma=has_decimal_comma
    )
    return table[column.name], [(fault.line or 0) - 2 for fault in faults]


@pytest.mark.parametrize(
    ("column", "good", "expected", "bad"),
    [
        (
            Column(name="x", dtype="float"),
            ["1", "-1.5", "+2", " 3 ", "1e3", ".5", "5.", "1E-2"],
            [1.0, -1.5, 2.0, 3.0, 1000.0, 0.5, 5.0, 0.01],
            ["", "one", "1,5", "1 000", "0x10", "1_0", "nan", "inf", "-Infinity", "1e999", "--1", "1e"],
        ),
        (
            Column(name="x", dtype="integer"),
            ["1", "-1", "+2", " 3 ", "4.0", "5e1", "9007199254740993"],
            [1, -1, 2, 3, 4, 50, 9007199254740993],
            ["", "1.5", "0x10", "nan", "1e99", "99999999999999999999"],
        ),
        (
            Column(name="x", dtype="boolean"),
            ["true", "FALSE", "1", "0", " True "],
            [True, False, True, False, True],
            ["", "yes", "2", "t"],
        ),
        (Column(name="x", dtype="text"), ["a", " b c ", "ü"], ["a", "b c", "ü"], ["", "  "]),
        (Column(name="x", dtype="text", allowed=("L", "M")), ["L", "M", " L"], ["L", "M", "L"], ["", "H", "l"]),
        (Column(name="x", dtype="float", minimum=0, maximum=2), ["0", "2", "1"], [0.0, 2.0, 1.0], ["-1e-9", "2.0001"]),
        (Column(name="x", dtype="integer", minimum=1, maximum=5), ["1", "5"], [1, 5], ["0", "6"]),
    ],
    ids=["float", "integer", "boolean", "text", "allowed", "float bounds", "integer bounds"],
)
def test_cells_are_typed_or_refused(column: Column, good: list[str], expected: list[object], bad: list[str]) -> None:
    assert _check_one(column, good) == (expected, [])
    # Mixed with good cells, so that one wrong cell spoils no other.
    mixed, places = _check_one(column, [*bad, *good])
    assert (mixed, places) == (expected, list(range(len(bad))))


def test_nullable_cells_may_be_empty_and_columns_missing() -> None:
    column = Column(name="x", dtype="float", is_nullable=True)

    assert _check_one(column, ["1", "", " "]) == ([1.0, None, None], [])
    assert _check_one(column, ["NaN"]) == ([], [0])


def test_times_are_read_as_utc_in_every_iso_form() -> None:
    cells = [
        "2024-01-31",
        "2024-01-31 10:00",
        "2024-01-31T10:00:00",
        "2024-01-31T10:00:00.123456",
        "2024-01-31T10:00:00.123456789Z",
        "2024-01-31T10:00:00+02:00",
        "2024-01-31 10:00:00-0330",
    ]
    hour = datetime(2024, 1, 31, 10, tzinfo=UTC)
    fraction = hour + timedelta(microseconds=123456)
    expected = [
        datetime(2024, 1, 31, tzinfo=UTC),
        hour,
        hour,
        fraction,
        fraction,
        hour - timedelta(hours=2),
        hour + timedelta(hours=3, minutes=30),
    ]
    column = Column(name="x", dtype="time")

    assert _check_one(column, cells) == (expected, [])
    for cell, value in zip(cells, expected, strict=True):
        assert _check_one(column, [cell]) == ([value], [])


def test_what_is_no_time_is_refused() -> None:
    cells = ["2024-02-30", "31.01.2024", "01/31/2024", "2024", "20240131", "1706659200", "2024-01-31T25:00", "now"]

    assert _check_one(Column(name="x", dtype="time"), cells) == ([], list(range(len(cells))))


def test_time_of_the_key_is_neither_in_the_future_nor_before_1900() -> None:
    cells = {
        "Date": ["2024-06-01T12:00:00Z", "2024-06-01T12:00:01Z", "2024-06-01T16:00+03:59", "1899-12-31", "1900-01-01"],
        "Close": ["1"] * 5,
    }

    table, faults = _check(build_series_contract("m"), cells)

    assert table["source_line"] == [2, 6]
    assert [(fault.line, fault.rule) for fault in faults] == [
        (3, "no later than now, 2024-06-01T12:00:00Z"),
        (4, "no later than now, 2024-06-01T12:00:00Z"),
        (5, "no earlier than 1900-01-01"),
    ]


def test_time_without_a_zone_may_be_that_of_the_latest_zone() -> None:
    cells = {
        "Date": ["2024-06-02", "2024-06-02T02:00:00", "2024-06-02T02:00:01", "2024-06-03", "2024-06-02 00:00Z"],
        "Close": ["1"] * 5,
    }

    table, faults = _check(build_series_contract("m"), cells)

    latest = "no later than now in the latest time zone, 2024-06-02T02:00:00"
    assert table["source_line"] == [2, 3]
    assert [(fault.line, fault.rule) for fault in faults] == [
        (4, latest),
        (5, latest),
        (6, "no later than now, 2024-06-01T12:00:00Z"),
    ]


def test_time_before_the_retention_border_is_refused() -> None:
    contract = build_series_contract("m").model_copy(update={"retention_days": 30})

    table, faults = _check(contract, {"Date": ["2024-05-02T12:00", "2024-05-02T11:59:59"], "Close": ["1", "1"]})

    assert table["source_line"] == [2]
    assert [fault.rule for fault in faults] == ["no earlier than 2024-05-02T12:00:00Z, since rows are kept for 30 days"]


def test_time_that_steps_back_is_refused_where_the_order_is_declared() -> None:
    contract = build_fleet_contract("m").model_copy(update={"order": "ascending"})
    checker = RowChecker(contract, has_decimal_comma=False, now=NOW)
    found: list[int | None] = []
    chunks = [("ababa", (1, 5, 3, 5, 2)), ("bac", (4, 3, 1)), ("bca", (6, 0, 2))]
    line = 2
    for machines, minutes in chunks:
        cells = {
            "machine": pa.array(list(machines)),
            "at": pa.array([f"2024-01-01T00:0{minute}" for minute in minutes]),
            "value": pa.array(["1"] * len(minutes)),
        }
        lines = np.arange(line, line + len(minutes))
        line += len(minutes)
        found += [fault.line for fault in checker.check(TextRows(lines, cells, (), 0)).faults]

    # a: 1 3 2! | 3 | 2!; b: 5 5 | 4! | 6; c: 1 | 0!
    assert found == [6, 7, 11, 12]
    assert not _check(
        build_fleet_contract("m"), {"machine": ["a", "a"], "at": ["2024-01-02", "2024-01-01"], "value": ["1", "1"]}
    )[1]


def test_real_clock_that_steps_back_an_hour_is_named(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "machine_temperature.csv", dtype=str)
    contract = build_fleet_contract("m").model_copy(update={"order": "ascending"})
    cells = {"machine": ["m"] * len(frame), "at": frame["timestamp"].tolist(), "value": frame["value"].tolist()}

    _, faults = _check(contract, cells)

    times = pd.to_datetime(frame["timestamp"])
    expected = np.flatnonzero(times < times.cummax()) + 2
    assert [fault.line for fault in faults] == expected.tolist()
    assert len(faults) > 0


@pytest.mark.parametrize(
    ("column", "cells", "expected", "bad"),
    [
        (Column(name="x", dtype="float"), pa.array([1, None, 3], pa.int32()), [1.0, 3.0], [1]),
        (Column(name="x", dtype="float"), pa.array([1.5, float("nan"), float("inf")]), [1.5], [1, 2]),
        (Column(name="x", dtype="float", maximum=2), pa.array([1.5, 2.5], pa.float32()), [1.5], [1]),
        (Column(name="x", dtype="integer"), pa.array([1.0, 2.5, None]), [1], [1, 2]),
        (Column(name="x", dtype="integer", is_nullable=True), pa.array([7, None], pa.uint8()), [7, None], []),
        (Column(name="x", dtype="boolean"), pa.array([True, False]), [True, False], []),
        (Column(name="x", dtype="boolean"), pa.array([1, 2]), [True], [1]),
        (Column(name="x", dtype="text", allowed=("a",)), pa.array(["a", "b"]).dictionary_encode(), ["a"], [1]),
        (Column(name="x", dtype="time"), pa.array([0], pa.date32()), [datetime(1970, 1, 1, tzinfo=UTC)], []),
        (Column(name="x", dtype="time"), pa.array([1], pa.int64()), [], [0]),
        (
            Column(name="x", dtype="time"),
            pa.array([1_001], pa.timestamp("ns")),
            [datetime(1970, 1, 1, microsecond=1, tzinfo=UTC)],
            [],
        ),
    ],
    ids=[
        "int32",
        "not finite",
        "float32",
        "fractions",
        "uint8",
        "boolean",
        "numbers",
        "dictionary",
        "date",
        "int",
        "ns",
    ],
)
def test_cells_with_a_type_of_their_own_obey_the_same_rules(
    column: Column, cells: pa.Array, expected: list[object], bad: list[int]
) -> None:
    checker = RowChecker(build_table_contract("m", column), has_decimal_comma=False, now=NOW)

    checked = checker.check(TextRows(np.arange(len(cells)), {"x": cells}, (), 0))

    assert checked.table["x"].to_pylist() == expected
    assert [fault.line for fault in checked.faults] == bad


def test_typed_time_without_a_zone_has_the_slack_and_one_with_a_zone_has_not() -> None:
    contract = build_series_contract("m")
    soon = pa.array([NOW.replace(tzinfo=None) + timedelta(hours=14)], pa.timestamp("us"))
    for cells, faults in ((soon, 0), (soon.cast(pa.timestamp("us", "UTC")), 1)):
        rows = TextRows(np.arange(1), {"Date": cells, "Close": pa.array([1.0])}, (), 0)
        checked = RowChecker(contract, has_decimal_comma=False, now=NOW).check(rows)
        assert len(checked.faults) == faults


def test_decimal_comma_is_read_where_the_delimiter_leaves_it_free() -> None:
    column = Column(name="x", dtype="float")

    assert _check_one(column, ["1,5", "2", "-0,25"], has_decimal_comma=True) == ([1.5, 2.0, -0.25], [])
    assert _check_one(column, ["1.5", "2"], has_decimal_comma=True) == ([1.5, 2.0], [])
    assert _check_one(column, ["1.234,5", "1,2,3", "7,5"], has_decimal_comma=True) == ([7.5], [0, 1])
    assert _check_one(column, ["1,5"]) == ([], [0])


def test_every_fault_of_a_row_is_named_once_in_order_of_lines() -> None:
    cells = {"Date": ["2024-01-02", "x", ""], "Close": ["0.1", "2", "y"]}

    table, faults = _check(build_series_contract("m"), cells)

    assert table["Date"] == []
    assert [(fault.line, fault.column, fault.value) for fault in faults] == [
        (2, "Close", "0.1"),
        (3, "Date", "x"),
        (4, "Date", ""),
        (4, "Close", "y"),
    ]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_keep_every_bit_from_their_text(values: list[float]) -> None:
    assert _check_one(Column(name="x", dtype="float"), [repr(value) for value in values]) == (values, [])


@given(st.text(max_size=12))
def test_a_float_cell_is_what_python_reads_or_refused(cell: str) -> None:
    passed, places = _check_one(Column(name="x", dtype="float"), [cell, "1"])

    if places:
        assert passed == [1.0]
    else:
        assert passed[0] == float(cell)
