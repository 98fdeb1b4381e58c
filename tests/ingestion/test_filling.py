"""Missing steps in snapshots: filled as declared, and never stored."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from sqlalchemy import Engine, select

from core.contract import Column, Contract, Key, build_contract
from core.data_errors import SnapshotRejected
from core.errors import DeclarationRejected
from core.tables.data import snapshots
from ingestion.filling import GapFiller
from ingestion.snapshots import SnapshotQuery, create_snapshot
from tests.ingestion.folder_store import FolderStore
from tests.ingestion.series import build_fleet_contract, build_series_contract, count_rows, import_bytes

_START = pd.Timestamp("2024-01-01", tz="UTC")
_STEP = pd.Timedelta(minutes=5)


def _build_contract(longest_fill: int = 100) -> Contract:
    contract = build_fleet_contract("m", gaps="hold")
    columns = (*contract.columns, Column(name="note", dtype="text"))
    return contract.model_copy(update={"columns": columns, "longest_fill": longest_fill})


def _fill(contract: Contract, frame: pd.DataFrame, batch_rows: int) -> tuple[pd.DataFrame, int]:
    schema = pa.schema(
        [
            ("machine", pa.string()),
            ("at", pa.timestamp("us", "UTC")),
            ("value", pa.float64()),
            ("note", pa.string()),
        ]
    )
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    filler = GapFiller(contract)
    filled = pa.Table.from_batches(filler.fill(table.to_batches(max_chunksize=batch_rows)), schema)
    return filled.to_pandas(), filler.filled_rows


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(0, 25),
            st.one_of(st.none(), st.floats(-1e6, 1e6)),
            st.sampled_from("xyz"),
        ),
        min_size=1,
        max_size=25,
        unique_by=lambda row: row[:2],
    ),
    st.integers(1, 26),
    st.integers(1, 6),
)
def test_gaps_are_filled_one_step_after_another(
    rows: list[tuple[str, int, float | None, str]], batch_rows: int, longest: int
) -> None:
    rows = sorted(rows, key=lambda row: (row[0], row[1]))
    frame = pd.DataFrame(rows, columns=["machine", "step", "value", "note"])
    frame["at"] = _START + frame["step"] * _STEP
    frame["value"] = frame["value"].astype(float)

    found, filled_rows = _fill(_build_contract(longest), frame.drop(columns="step"), batch_rows)

    expected: list[tuple[str, int, float, str]] = []
    for machine, step, given_value, note in rows:
        value = np.nan if given_value is None else given_value
        expected.append((machine, step, value, note))
        later = [row for row in rows if row[0] == machine and row[1] > step]
        missing = later[0][1] - step - 1 if later else 0
        if missing > longest:
            continue
        for ahead in range(1, missing + 1):
            expected.append((machine, step + ahead, value, note))
    assert filled_rows == len(expected) - len(frame)
    assert found["machine"].tolist() == [row[0] for row in expected]
    assert (found["at"] == pd.Series([_START + row[1] * _STEP for row in expected])).all()
    np.testing.assert_allclose(found["value"], [row[2] for row in expected], rtol=1e-9, atol=1e-6)
    assert found["note"].tolist() == [row[3] for row in expected]


def test_row_off_the_grid_ends_the_filling_before_it() -> None:
    times = [_START, _START + 2.5 * _STEP]
    frame = pd.DataFrame({"machine": "a", "at": times, "value": [0.0, 5.0], "note": "x"})

    found, filled_rows = _fill(_build_contract(), frame, 10)

    assert filled_rows == 2
    np.testing.assert_allclose(found["value"], [0.0, 0.0, 0.0, 5.0])


def test_filled_rows_are_in_the_snapshot_and_not_among_the_observations(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    contract = build_series_contract(model, gaps="hold")
    days = "\n".join(["Date,Close", *(f"2021-01-{day:02},{day}" for day in (1, 2, 5, 6, 7))])
    result = import_bytes(engine, contract, days.encode())
    files = FolderStore(tmp_path)

    snapshot = create_snapshot(engine, contract, files, tmp_path)
    again = create_snapshot(engine, contract, files, tmp_path)
    other = create_snapshot(engine, contract.model_copy(update={"gaps": "allow"}), files, tmp_path)

    assert (result.gaps, count_rows(engine, model)) == (1, 5)
    assert parquet.read_table(snapshot.uri)["Close"].to_pylist() == [1, 2, 2, 2, 5, 6, 7]
    assert (snapshot.rows, again, other.rows) == (7, snapshot, 5)
    with engine.connect() as connection:
        query = connection.scalar(select(snapshots.c.query).where(snapshots.c.digest == snapshot.digest))
    assert query is not None
    assert query["filled_rows"] == 2


def test_snapshot_is_cut_by_entity_time_and_column(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_fleet_contract(model)
    rows = [f"{machine},2024-01-01T00:{5 * at:02},{at}" for at in range(10) for machine in "abc"]
    import_bytes(engine, contract, "\n".join(["machine,at,value", *rows]).encode())
    query = SnapshotQuery(
        first_at=datetime(2024, 1, 1, 0, 10, tzinfo=UTC),
        last_at=datetime(2024, 1, 1, 0, 20, tzinfo=UTC),
        entities=("a", "c"),
        columns=("value",),
    )

    snapshot = create_snapshot(engine, contract, FolderStore(tmp_path), tmp_path, query=query)

    table = parquet.read_table(snapshot.uri)
    assert table["machine"].to_pylist() == ["a"] * 3 + ["c"] * 3
    assert table["value"].to_pylist() == [2, 3, 4] * 2
    assert (snapshot.first_at, snapshot.last_at) == (query.first_at, query.last_at)
    plain = build_series_contract(f"{model}_p")
    import_bytes(engine, plain, b"Date,Close\n" + b"".join(b"2021-01-0%d,1\n" % day for day in range(1, 7)))
    with pytest.raises(SnapshotRejected, match="no entity"):
        create_snapshot(engine, plain, FolderStore(tmp_path), tmp_path, query=SnapshotQuery(entities=("a",)))


def test_declaration_that_fills_without_steps_is_refused() -> None:
    columns = (Column(name="at", dtype="time"), Column(name="x", dtype="float"), Column(name="y", dtype="float"))
    fields = {"description": "x", "kind": "sequence", "columns": columns, "target": "x", "features": ("x",), "steps": 2}
    with pytest.raises(DeclarationRejected, match="gaps 'hold' needs step_s"):
        build_contract(f"m{uuid4().hex[:8]}", **fields, key=Key(time="at"), gaps="hold")
    fields |= {"kind": "tabular", "steps": 1, "target": "y"}
    with pytest.raises(DeclarationRejected, match=r"retention_days need key\.time"):
        build_contract(f"m{uuid4().hex[:8]}", **fields, key=Key(), retention_days=3)
