"""Batches of JSON rows: each good row stored, each bad one rejected alone, everything leading back to its line."""

import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from sqlalchemy import Engine, text

from core.contract import Column, Contract
from core.data_errors import RowsRejected, SourceNotFound
from ingestion.batches import Batch, BatchResult, replay_rejected, store_batch
from ingestion.json_rows import read_lines
from ingestion.store import load_observations
from tests.ingestion.series import (
    FIRST_DAY,
    build_fleet_contract,
    build_series_contract,
    build_table_contract,
    count_rows,
    import_bytes,
    load_rejected,
    write_days,
)

Row = Mapping[str, object]


def store(engine: Engine, contract: Contract, rows: Sequence[Row | bytes], **options: Any) -> BatchResult:
    raw = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
    return store_batch(engine, contract, Batch(raw, read_lines(raw), kind="rest", name="rows", actor="test", **options))


def day(number: int, close: object, **more: object) -> dict[str, object]:
    return {"Date": f"{FIRST_DAY + timedelta(days=number)}", "Close": close, **more}


def load_rows(engine: Engine, contract: Contract) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        frame = load_observations(connection, contract)
    return [tuple(row) for row in frame.itertuples(index=False)]


def load_places(engine: Engine, model: str, column: str) -> dict[object, tuple[UUID, int]]:
    query = text(f'SELECT "{column}", source_id, source_line FROM observations_{model}')  # noqa: S608 - own names
    with engine.connect() as connection:
        return {row[0]: (row[1], row[2]) for row in connection.execute(query)}


def load_raw_line(engine: Engine, source_id: UUID, line: int) -> object:
    query = text("SELECT content FROM source_pieces WHERE source_id = :id ORDER BY piece")
    with engine.connect() as connection:
        content = b"".join(zlib.decompress(piece) for piece in connection.scalars(query, {"id": source_id}))
    return orjson.loads(content.split(b"\n")[line - 1])


def test_rows_are_stored_once_and_lead_back_to_their_lines(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    rows = [day(at, 10.0 + at) for at in range(3)]

    first = store(engine, contract, rows)
    again = store(engine, contract, rows)

    assert (first.rows_new, first.rows_changed, first.rows_unchanged, first.rows_rejected) == (3, 0, 0, 0)
    assert (again.rows_new, again.rows_changed, again.rows_unchanged, again.rows_rejected) == (0, 0, 3, 0)
    assert count_rows(engine, model) == 3
    for close, (source_id, line) in load_places(engine, model, "Close").items():
        assert source_id == first.source_id
        assert load_raw_line(engine, source_id, line) == rows[line - 1]
        assert rows[line - 1]["Close"] == close


def test_bad_rows_are_rejected_alone(engine: Engine, model: str) -> None:
    rows: list[Row | bytes] = [
        day(0, 10.0),
        day(1, "abc"),
        {"Date": "2021-01-03"},
        b"{not json",
        b"[1, 2]",
        day(4, -1.0),
        day(5, {"deep": 1}),
        day(6, "1\0"),
        b'{"Date": "2021-01-08", "Close": NaN}',
        b"\xff\xfe",
        {**day(9, 1.0), "close": 2.0},
        day(10, 20.0),
    ]

    result = store(engine, build_series_contract(model), rows)

    assert (result.rows_new, result.rows_rejected) == (2, 10)
    rejected = load_rejected(engine, model)
    assert [(line, column) for line, column, _, _ in rejected] == [
        (2, "Close"),
        (3, "Close"),
        (4, ""),
        (5, ""),
        (6, "Close"),
        (7, "Close"),
        (8, "Close"),
        (9, "Close"),
        (10, ""),
        (11, "Close"),
    ]
    assert rejected[0][2] == "abc"
    assert rejected[0][3].startswith("a finite number with a decimal point is needed")
    assert rejected[4][2:] == ("-1.0", "at least 0.5 USD is allowed")
    assert [(fault.line, fault.column, fault.value, fault.rule) for fault in result.rejected] == rejected
    assert set(load_places(engine, model, "Close")) == {10.0, 20.0}


def test_batch_without_a_good_row_is_kept_as_rejected(engine: Engine, model: str) -> None:
    result = store(engine, build_series_contract(model), [day(0, "abc")])

    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT state, rows_rejected FROM sources WHERE id = :id"), {"id": result.source_id}
        )
        assert tuple(row.one()) == ("rejected", 1)
    assert count_rows(engine, model) == 0


def test_batch_without_a_row_is_refused(engine: Engine, model: str) -> None:
    with pytest.raises(RowsRejected, match="at least one row is needed"):
        store(engine, build_series_contract(model), [b"", b"  "])


def test_changed_row_takes_the_new_values_and_keeps_columns_that_it_lacks(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    store(engine, contract, [day(0, 10.0, Volume=5.0), day(1, 11.0, Volume=6.0)])

    result = store(engine, contract, [day(0, 12.0), day(1, 11.0), day(2, 13.0, Volume=7.0)])

    assert (result.rows_new, result.rows_changed, result.rows_unchanged) == (1, 1, 1)
    assert [row[1:] for row in load_rows(engine, contract)] == [(12.0, 5.0), (11.0, 6.0), (13.0, 7.0)]
    assert load_places(engine, model, "Close")[12.0] == (result.source_id, 1)


def test_repeated_key_of_a_document_is_one_row_or_the_later_is_rejected(engine: Engine, model: str) -> None:
    result = store(engine, build_series_contract(model), [day(0, 10.0), day(0, 10), day(0, 11.0), day(1, 12.0)])

    assert (result.rows_new, result.rows_repeated, result.rows_rejected) == (2, 1, 1)
    assert load_rejected(engine, model) == [(3, "Date", "2021-01-01T00:00:00Z", "each key once; line 1 has it too")]
    assert set(load_places(engine, model, "Close")) == {10.0, 12.0}


@pytest.mark.parametrize("cuts", [[4], [1, 3], [2, 2], [1, 1, 1, 1]])
def test_rows_of_a_stream_end_the_same_however_they_are_cut_into_batches(
    engine: Engine, model: str, cuts: list[int]
) -> None:
    contract = build_series_contract(model)
    rows = [day(0, 10.0), day(0, 11.0), day(1, 12.0), day(0, 9.0)]

    for size in cuts:
        batch, rows = rows[:size], rows[size:]
        assert store(engine, contract, batch, later_wins=True).rows_rejected == 0

    assert [row[1] for row in load_rows(engine, contract)] == [9.0, 12.0]


def test_step_back_is_a_fault_of_a_document_and_none_of_a_stream(engine: Engine, model: str) -> None:
    contract = build_series_contract(model, gaps="allow").model_copy(update={"order": "ascending"})
    rows = [day(1, 11.0), day(0, 10.0)]

    assert store(engine, contract, rows, later_wins=True).rows_rejected == 0
    assert [fault.line for fault in store(engine, contract, rows).rejected] == [2]


def test_missing_steps_of_a_live_series_are_reported_and_do_not_refuse_it(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model)
    start = datetime(2024, 1, 31, 23, 50, tzinfo=UTC)

    def send(*readings: tuple[str, int]) -> int:
        rows = [{"machine": m, "at": (start + timedelta(minutes=5 * n)).isoformat(), "value": n} for m, n in readings]
        return store(engine, contract, rows).gaps

    assert send(("a", 0), ("a", 1), ("b", 1)) == 0
    assert send(("a", 2), ("b", 2)) == 0
    assert send(("a", 5)) == 1
    assert send(("a", 7), ("b", 3), ("b", 5)) == 2
    assert send(("a", 6)) == 0
    assert count_rows(engine, model) == 10


def test_rows_without_time_or_id_have_the_hash_that_a_file_gives_them(engine: Engine, model: str) -> None:
    columns = (Column(name="a %", dtype="float"), Column(name="on", dtype="boolean"), Column(name="seen", dtype="time"),
               Column(name="note", dtype="text", is_nullable=True), Column(name="b", dtype="integer"))  # fmt: skip
    contract = build_table_contract(model, *columns)
    import_bytes(engine, contract, "a %,on,seen,note,b\n1.5,true,2024-01-01,é,3\n".encode())

    result = store(
        engine,
        contract,
        [
            {"A %": 1.5, "on": True, "seen": "2024-01-01T00:00:00Z", "note": "é", "b": 3},
            {"a %": 1e300, "on": False, "seen": "2024-01-01T01:00:00+02:00", "b": 2**60},
            {"a %": 1e300, "on": 0, "seen": "2023-12-31T23:00:00", "b": 2**60},
        ],
    )

    assert (result.rows_new, result.rows_unchanged) == (1, 2)
    assert count_rows(engine, model) == 2


def test_row_with_a_key_too_long_for_the_index_is_rejected(engine: Engine, model: str) -> None:
    row = {"machine": "é" * 251, "at": "2024-01-01", "value": 1}
    result = store(engine, build_fleet_contract(model), [row, {**row, "machine": "é" * 250}])

    assert [(fault.line, fault.column) for fault in result.rejected] == [(1, "machine")]
    assert count_rows(engine, model) == 1


def test_unknown_members_are_named_and_aliases_are_known(engine: Engine, model: str) -> None:
    result = store(engine, build_series_contract(model), [{"day": "2021-01-01", "CLOSE": 1, "colour": "red"}])

    assert (result.rows_new, result.ignored_columns) == (1, ("colour",))


def test_replay_stores_what_the_contract_takes_now(engine: Engine, model: str) -> None:
    strict = build_series_contract(model)
    wide = strict.model_copy(
        update={
            "columns": tuple(c.model_copy(update={"minimum": -5.0}) if c.name == "Close" else c for c in strict.columns)
        }
    )
    result = store(engine, strict, [day(0, 10.0), day(1, -1.0), day(2, "abc"), day(3, -9.0)])
    assert result.rows_rejected == 3

    replayed = replay_rejected(engine, wide, result.source_id)

    assert (replayed.rows_new, replayed.rows_rejected) == (1, 2)
    assert [line for line, *_ in load_rejected(engine, model)] == [3, 4]
    assert load_places(engine, model, "Close")[-1.0] == (result.source_id, 2)
    again = replay_rejected(engine, wide, result.source_id)
    assert (again.rows_new, again.rows_rejected) == (0, 2)


def test_replay_leaves_what_was_stored_since(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    result = store(engine, contract, [day(0, 10.0), day(0, 11.0), day(1, "abc")])
    store(engine, contract, [day(1, 12.0)])

    replayed = replay_rejected(engine, contract, result.source_id)

    assert (replayed.rows_new, replayed.rows_changed, replayed.rows_rejected) == (0, 0, 2)
    assert load_rejected(engine, model)[0] == (
        2, "Date", "2021-01-01T00:00:00Z", "each key once; other values are stored under it"
    )  # fmt: skip
    assert set(load_places(engine, model, "Close")) == {10.0, 12.0}


def test_replay_of_an_unknown_source_is_refused(engine: Engine, model: str) -> None:
    with pytest.raises(SourceNotFound, match="has no rejected source"):
        replay_rejected(engine, build_series_contract(model), uuid4())


def test_batch_agrees_with_a_file_of_the_same_rows(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    import_bytes(engine, contract, write_days(0, [10.0, 11.0, 12.0, 13.0, 14.0]))

    result = store(engine, contract, [day(at, 10.0 + at) for at in range(6)])

    assert (result.rows_new, result.rows_changed, result.rows_unchanged) == (1, 0, 5)
