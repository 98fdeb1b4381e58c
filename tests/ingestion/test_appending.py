"""Rows in order go straight into the observations, and come to the same as rows that are gathered first."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from core.contract import Contract
from core.data_errors import RowsRejected
from ingestion.appending import Appending, OutOfOrder
from ingestion.gaps import Gap
from ingestion.store import load_observations, prepare_table
from tests.ingestion.series import (
    build_fleet_contract,
    build_series_contract,
    count_rows,
    import_bytes,
    write_days,
)

_START = datetime(2024, 1, 1, tzinfo=UTC)
_STEP = timedelta(minutes=5)


def _build_rows(machines: str, steps: list[int], first_line: int = 2) -> pa.Table:
    """One row a letter: its machine, and its time in steps since the start."""
    return pa.table(
        {
            "machine": list(machines),
            "at": pa.array([_START + step * _STEP for step in steps], pa.timestamp("us", "UTC")),
            "value": [float(step) for step in steps],
            "source_line": np.arange(first_line, first_line + len(steps)),
        }
    )


def _append(engine: Engine, contract: Contract, *chunks: pa.Table) -> Appending:
    with engine.begin() as connection:
        prepare_table(connection, contract)
        appending = Appending(connection, contract, uuid4())
        for chunk in chunks:
            appending.add(chunk)
        appending.close_input()
        return appending


def test_chunks_in_order_are_stored_with_their_gaps(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model)

    appending = _append(engine, contract, _build_rows("abab", [0, 0, 1, 3]), _build_rows("aab", [2, 4, 4], 6))

    def at(step: int) -> datetime:
        return _START + step * _STEP

    assert (appending.rows, appending.find_span()) == (7, (at(0), at(4)))
    assert appending.gaps.first == [Gap("b", at(0), at(3), 3, 5), Gap("a", at(2), at(4), 6, 7)]
    with engine.connect() as connection:
        stored = load_observations(connection, contract)
    assert stored["value"].tolist() == [0, 1, 2, 4, 0, 3, 4]
    assert stored["machine"].tolist() == ["a"] * 4 + ["b"] * 3


@pytest.mark.parametrize(
    "chunks",
    [
        [("aa", [1, 1])],
        [("aa", [2, 1])],
        [("ab", [1, 1]), ("a", [1])],
        [("ab", [1, 5]), ("ba", [4, 6])],
    ],
    ids=["twice", "back", "twice in another chunk", "back in another chunk"],
)
def test_times_that_do_not_ascend_are_out_of_order(
    engine: Engine, model: str, chunks: list[tuple[str, list[int]]]
) -> None:
    with pytest.raises(OutOfOrder):
        _append(engine, build_fleet_contract(model), *(_build_rows(*chunk) for chunk in chunks))

    assert count_rows(engine, model) == 0


def test_stored_rows_in_the_way_are_out_of_order_and_those_beside_are_not(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model)
    _append(engine, contract, _build_rows("aab", [0, 10, 5]))

    for chunks in (["a", [10]], ["aa", [9, 11]]), (["a", [9]], ["a", [11]]), (["b", [5]],):
        with pytest.raises(OutOfOrder):
            _append(engine, contract, *(_build_rows(str(machines), steps) for machines, steps in chunks))  # type: ignore[arg-type]
    appending = _append(engine, contract, _build_rows("abb", [1, 6, 7]))

    # a: 0 [1] 10, b: 5 [6 7]
    assert [(gap.entity, gap.after_line, gap.line) for gap in appending.gaps.first] == [("a", 2, None)]
    assert count_rows(engine, model) == 6


def test_gap_that_is_refused_is_out_of_order(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model, gaps="refuse")
    _append(engine, contract, _build_rows("aa", [10, 11]))

    for steps in ([13], [8], [12, 14]):
        with pytest.raises(OutOfOrder):
            _append(engine, contract, _build_rows("a" * len(steps), steps))
    _append(engine, contract, _build_rows("ab", [9, 7]))

    assert count_rows(engine, model) == 4


def test_longest_series_is_counted_with_its_stored_rows(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model)
    _append(engine, contract, _build_rows("aaa", [0, 1, 2]))
    with engine.begin() as connection:
        appending = Appending(connection, contract, uuid4())
        appending.add(_build_rows("abb", [3, 1, 2]))
        assert [appending.count_longest(most) for most in (2, 3, 4, 9)] == [2, 3, 4, 4]


def test_readers_do_not_wait_for_an_import_that_makes_partitions(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model)
    with engine.begin() as connection:
        prepare_table(connection, contract)
    with engine.begin() as connection, engine.begin() as reader:
        Appending(connection, contract, uuid4()).add(_build_rows("a", [0]))
        reader.execute(text("SET LOCAL lock_timeout TO '5s'"))
        assert reader.scalar(text(f"SELECT count(*) FROM observations_{model}")) == 0  # noqa: S608 - own name
    assert count_rows(engine, model) == 1


def test_refused_file_leaves_none_of_the_rows_that_were_copied_before_its_fault(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    first = pd.Timestamp("1950-01-01")
    # Longer than one chunk of a file, so that rows before the fault are in the table when it is found.
    days = [f"{first + pd.Timedelta(days=at):%Y-%m-%d},1.5,{'1' * 200}" for at in range(25_000)]

    with pytest.raises(RowsRejected, match="line 25002, column Close"):
        import_bytes(engine, contract, "\n".join(["Date,Close,note", *days, "2018-06-13,x,1"]).encode())

    assert count_rows(engine, model) == 0
    assert import_bytes(engine, contract, "\n".join(["Date,Close,note", *days]).encode()).rows_new == 25_000


def test_file_in_order_and_the_same_file_reversed_are_stored_alike(engine: Engine, model: str) -> None:
    straight, gathered = build_series_contract(model, gaps="allow"), build_series_contract(f"{model}_r", gaps="allow")
    head, *rows = (write_days(0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) + write_days(9, [7.0]).split(b"\n")[1]).split(b"\n")

    results = [
        import_bytes(engine, straight, b"\n".join([head, *rows])),
        import_bytes(engine, gathered, b"\n".join([head, *rows[::-1]])),
    ]

    assert [(one.rows_new, one.gaps, one.first_at, one.last_at) for one in results] == [
        (7, 1, datetime(2021, 1, 1, tzinfo=UTC), datetime(2021, 1, 10, tzinfo=UTC))
    ] * 2
    assert [[(gap.after_at.day, gap.at.day) for gap in one.first_gaps] for one in results] == [[(6, 10)]] * 2
    with engine.connect() as connection:
        first, second = (load_observations(connection, contract) for contract in (straight, gathered))
    pd.testing.assert_frame_equal(first, second)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=40),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_gaps_are_those_that_pandas_finds(
    engine: Engine, moves: list[tuple[str, int]], chunk_rows: int, seed: int
) -> None:
    machines = "".join(machine for machine, _ in moves)
    reached = dict.fromkeys("abc", int(np.random.default_rng(seed).integers(0, 50)))
    steps: list[int] = []
    for machine, move in moves:
        reached[machine] += move
        steps.append(reached[machine])
    chunks = [
        _build_rows(machines[at : at + chunk_rows], steps[at : at + chunk_rows], 2 + at)
        for at in range(0, len(steps), chunk_rows)
    ]

    appending = _append(engine, build_fleet_contract(f"m{uuid4().hex[:12]}"), *chunks)

    frame = pd.DataFrame({"machine": list(machines), "step": steps})
    jumps: NDArray[np.float64] = frame.groupby("machine")["step"].diff().to_numpy()
    assert appending.gaps.count == int((jumps > 1).sum())
    assert appending.rows == len(moves)
