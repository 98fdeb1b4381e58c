"""Snapshots: one digest for the same rows, and no record of what was not stored."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from sqlalchemy import Engine, func, select

from core.contract import Column
from core.data_errors import SnapshotNotFound, SnapshotRejected
from core.snapshots import Snapshot, load_snapshot
from core.tables.data import snapshots
from ingestion.snapshots import SnapshotQuery, create_snapshot
from tests.ingestion.folder_store import FolderStore
from tests.ingestion.series import build_series_contract, build_table_contract, import_bytes, write_days


@pytest.fixture
def files(tmp_path: Path) -> FolderStore:
    folder = tmp_path / "store"
    folder.mkdir()
    return FolderStore(folder)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def _count_records(engine: Engine, model: str) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).where(snapshots.c.model == model)) or 0


def test_snapshot_holds_the_rows_in_order_and_is_recorded(
    engine: Engine, model: str, files: FolderStore, work: Path
) -> None:
    contract = build_series_contract(model)
    import_bytes(
        engine, contract, b"Date,Close,Volume\n" + b"".join(b"2021-01-0%d,%d,\n" % (d, d) for d in (3, 1, 2, 5, 4))
    )

    snapshot = create_snapshot(engine, contract, files, work)

    assert snapshot == Snapshot(
        digest=snapshot.digest,
        model=model,
        uri=str(files.folder / f"{model}-{snapshot.digest}.parquet"),
        rows=5,
        bytes=Path(snapshot.uri).stat().st_size,
        first_at=datetime(2021, 1, 1, tzinfo=UTC),
        last_at=datetime(2021, 1, 5, tzinfo=UTC),
    )
    assert list(work.iterdir()) == []
    with engine.connect() as connection:
        columns = load_snapshot(connection, snapshot.digest, files, work)
    assert columns["Date"].dtype == np.dtype("datetime64[us]")
    np.testing.assert_array_equal(columns["Date"], np.arange("2021-01-01", "2021-01-06", dtype="datetime64[D]"))
    np.testing.assert_array_equal(columns["Close"], [1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(columns["Volume"], [np.nan] * 5)


def test_same_rows_in_another_order_have_the_same_digest_and_are_stored_once(
    engine: Engine, model: str, files: FolderStore, work: Path
) -> None:
    contract = build_series_contract(model)
    days = write_days(0, [float(value) for value in range(1, 21)]).splitlines()
    import_bytes(engine, contract, b"\n".join(days))
    first = create_snapshot(engine, contract, files, work)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE observations_{model}")
    import_bytes(engine, contract, b"\n".join([days[0], *days[12:], *days[9:12]]))
    import_bytes(engine, contract, b"\n".join([days[0], *reversed(days[1:9])]))

    second = create_snapshot(engine, contract, files, work)

    assert second == first
    assert len(files.stored) == 1


def test_another_value_or_fewer_columns_is_another_digest(
    engine: Engine, model: str, files: FolderStore, work: Path
) -> None:
    contract = build_series_contract(model)
    import_bytes(engine, contract, write_days(0, [1.0] * 6))
    whole = create_snapshot(engine, contract, files, work)
    narrow = create_snapshot(engine, contract, files, work, query=SnapshotQuery(columns=("Close",)))
    some = create_snapshot(engine, contract, files, work, query=SnapshotQuery(last_at=datetime(2021, 1, 5, tzinfo=UTC)))
    import_bytes(engine, contract, write_days(0, [1.0] * 5 + [float(np.nextafter(1.0, 2.0))]))
    changed = create_snapshot(engine, contract, files, work)

    assert len({whole.digest, narrow.digest, some.digest, changed.digest}) == 4
    assert some.rows == 5
    assert parquet.read_schema(narrow.uri).names == ["Date", "Close"]


def test_too_few_rows_make_no_snapshot(engine: Engine, model: str, files: FolderStore, work: Path) -> None:
    contract = build_series_contract(model)
    with pytest.raises(SnapshotRejected, match=f"no rows were taken in yet; import some with `millrace ingest {model}"):
        create_snapshot(engine, contract, files, work)
    import_bytes(engine, contract, write_days(0, [1.0] * 6))

    with pytest.raises(SnapshotRejected, match="2 rows fit the query where at least 5 are needed"):
        create_snapshot(engine, contract, files, work, query=SnapshotQuery(first_at=datetime(2021, 1, 5, tzinfo=UTC)))
    with pytest.raises(SnapshotRejected, match="there is no column 'Prize'"):
        create_snapshot(engine, contract, files, work, query=SnapshotQuery(columns=("Prize",)))

    assert (files.stored, list(work.iterdir()), _count_records(engine, model)) == ([], [], 0)


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses this process to write more into a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 200])
def test_full_disk_leaves_neither_record_nor_file(
    engine: Engine, model: str, files: FolderStore, work: Path, size: int
) -> None:
    contract = build_series_contract(model)
    import_bytes(engine, contract, write_days(0, [1.0] * 6))

    with _files_of_at_most(size), pytest.raises(OSError, match="File too large"):
        create_snapshot(engine, contract, files, work)

    assert (files.stored, list(work.iterdir()), _count_records(engine, model)) == ([], [], 0)
    assert create_snapshot(engine, contract, files, work).rows == 6


def test_store_that_fails_leaves_neither_record_nor_file(
    engine: Engine, model: str, files: FolderStore, work: Path
) -> None:
    contract = build_series_contract(model)
    import_bytes(engine, contract, write_days(0, [1.0] * 6))
    # A file stands where the store has its folder.
    files.folder.rename(files.folder.with_name("aside"))
    files.folder.touch()

    with pytest.raises(OSError, match="store"):
        create_snapshot(engine, contract, files, work)

    assert (list(work.iterdir()), _count_records(engine, model)) == ([], 0)


def test_file_that_is_not_what_was_recorded_is_refused(
    engine: Engine, model: str, files: FolderStore, work: Path
) -> None:
    contract = build_series_contract(model)
    import_bytes(engine, contract, write_days(0, [1.0] * 6))
    old = create_snapshot(engine, contract, files, work)
    import_bytes(engine, contract, write_days(0, [2.0] * 6))
    new = create_snapshot(engine, contract, files, work)

    shutil.copyfile(new.uri, old.uri)
    with engine.connect() as connection:
        with pytest.raises(SnapshotRejected, match=f"has the digest {new.digest}"):
            load_snapshot(connection, old.digest, files, work)
        Path(old.uri).write_bytes(b"nothing")
        with pytest.raises(SnapshotRejected, match="cannot be read"):
            load_snapshot(connection, old.digest, files, work)
        with pytest.raises(SnapshotNotFound):
            load_snapshot(connection, "0" * 64, files, work)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_numbers_keep_every_bit_from_text_to_snapshot(
    engine: Engine, files: FolderStore, work: Path, rows: list[tuple[float, float | None, int | None]]
) -> None:
    contract = build_table_contract(
        f"m{uuid4().hex[:12]}",
        Column(name="id", dtype="integer"),
        Column(name="x", dtype="float"),
        Column(name="y", dtype="float", is_nullable=True),
        Column(name="n", dtype="integer", is_nullable=True),
        id_column="id",
    )
    lines = [f"{at},{x!r},{'' if y is None else repr(y)},{'' if n is None else n}" for at, (x, y, n) in enumerate(rows)]
    import_bytes(engine, contract, "\n".join(["id,x,y,n", *lines]).encode())

    snapshot = create_snapshot(engine, contract, files, work)

    table = parquet.read_table(snapshot.uri)
    with engine.connect() as connection:
        loaded = load_snapshot(connection, snapshot.digest, files, work)
    xs, ys, ns = ([row[at] for row in rows] for at in range(3))
    np.testing.assert_array_equal(loaded["x"].view(np.int64), np.array(xs).view(np.int64))
    assert (table["y"].to_pylist(), table["n"].to_pylist()) == (ys, ns)
