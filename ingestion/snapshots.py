"""Cutting snapshots: a query's observations, written once as Parquet under the digest of their content."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import uuid4

import pyarrow as pa
from pyarrow import parquet
from sqlalchemy import Engine, func
from sqlalchemy.dialects.postgresql import insert

from core.contract import Contract
from core.data_errors import SnapshotRejected
from core.snapshots import FileStore, Snapshot, SnapshotDigest, describe_columns, find_snapshot, get_snapshot
from core.tables.data import snapshots
from ingestion.filling import GapFiller
from ingestion.store import build_selection, get_raw_connection, has_table, list_key, lock_observations, prepare_table
from ingestion.validation import ARROW_TYPES

_BATCH_ROWS = 50_000


@dataclass(frozen=True)
class SnapshotQuery:
    """Which observations: times inclusive, None for no bound; entities and columns None for all.

    The columns of the key are always there.
    """

    first_at: datetime | None = None
    last_at: datetime | None = None
    entities: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None


def create_snapshot(
    engine: Engine,
    contract: Contract,
    files: FileStore,
    work_folder: Path,
    *,
    query: SnapshotQuery | None = None,
) -> Snapshot:
    """Cut a snapshot: one consistent view of the rows, ordered by key, stored through `files`, then recorded.

    Missing steps are filled in it as the contract declares. The same rows give the same digest, and one that is
    recorded already is answered, not stored again. Raises SnapshotRejected where there are too few rows for one window
    and its target. A failure on the way, a full disk too, leaves neither a record nor a file in `work_folder`.
    """
    query = query or SnapshotQuery()
    _prepare(engine, contract)
    names = _list_columns(contract, query)
    partial = work_folder / f"{uuid4().hex}.partial"
    try:
        filler = GapFiller(contract)
        snapshot = _write(engine, contract, names, query, filler, partial)
        _check_rows(contract, snapshot.rows)
        with engine.connect() as connection:
            known = find_snapshot(connection, snapshot.digest)
        if known is not None:
            return known
        uri = files.store_file(partial, f"{contract.model}-{snapshot.digest}.parquet")
    finally:
        partial.unlink(missing_ok=True)
    return _record(engine, replace(snapshot, uri=uri), query, names, filler.filled_rows)


def _prepare(engine: Engine, contract: Contract) -> None:
    with engine.begin() as connection:
        if not has_table(connection, contract.model):
            raise SnapshotRejected(
                contract.model, f"no rows were taken in yet; import some with `millrace ingest {contract.model} FILE`"
            )
        lock_observations(connection, contract.model)
        prepare_table(connection, contract)


def _list_columns(contract: Contract, query: SnapshotQuery) -> list[str]:
    if query.entities is not None and contract.key.entity is None:
        raise SnapshotRejected(contract.model, "its rows have no entity to choose by")
    known = [column.name for column in contract.columns]
    if query.columns is None:
        return known
    unknown = sorted(set(query.columns) - set(known))
    if unknown:
        raise SnapshotRejected(contract.model, f"there is no column {unknown[0]!r} among {', '.join(known)}")
    wanted = {*query.columns, *list_key(contract)}
    return [name for name in known if name in wanted]


def _check_rows(contract: Contract, rows: int) -> None:
    needed = contract.steps + contract.horizon if contract.kind == "sequence" else 1
    if rows < needed:
        raise SnapshotRejected(contract.model, f"{rows} rows fit the query where at least {needed} are needed")


def _write(
    engine: Engine, contract: Contract, names: list[str], query: SnapshotQuery, filler: GapFiller, path: Path
) -> Snapshot:
    """Write the rows and count them; what comes back has no address yet."""
    schema = pa.schema([(name, ARROW_TYPES[contract.column(name).dtype]) for name in names])
    digest = SnapshotDigest(contract.model, describe_columns(schema))
    rows = 0
    times: list[datetime] = []
    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema, version="2.6", compression="zstd", store_schema=False) as writer:
            batches = _read_batches(engine, contract, names, query, schema)
            for batch in filler.fill(batches) if filler.is_needed else batches:
                digest.update(batch)
                writer.write_batch(batch)
                rows += batch.num_rows
                if contract.key.time is not None:
                    column = pa.compute.min_max(batch.column(contract.key.time))
                    times = [*times, column["min"].as_py(), column["max"].as_py()]
                    times = [min(times), max(times)]
        file.flush()
        os.fsync(file.fileno())
    first_at, last_at = (at.astimezone(UTC) for at in times) if times else (None, None)
    size = path.stat().st_size
    return Snapshot(digest.hexdigest(), contract.model, "", rows, size, first_at, last_at)


def _read_batches(
    engine: Engine, contract: Contract, names: list[str], query: SnapshotQuery, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    selection = build_selection(contract, names, query.first_at, query.last_at, query.entities)
    with (
        engine.begin() as connection,
        get_raw_connection(connection).cursor(name="millrace_snapshot", binary=True) as cursor,
    ):
        cursor.execute(selection)
        while rows := cursor.fetchmany(_BATCH_ROWS):
            columns = cast("list[tuple[object, ...]]", list(zip(*rows, strict=True)))
            arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _record(engine: Engine, snapshot: Snapshot, query: SnapshotQuery, names: list[str], filled_rows: int) -> Snapshot:
    bounds = {
        "first_at": query.first_at.isoformat() if query.first_at else None,
        "last_at": query.last_at.isoformat() if query.last_at else None,
        "entities": query.entities,
        "columns": names,
        "filled_rows": filled_rows,
    }
    with engine.begin() as connection:
        statement = insert(snapshots).values(**asdict(snapshot), query=bounds)
        # One whose file was removed is there again.
        is_back = {"uri": snapshot.uri, "bytes": snapshot.bytes, "removed_at": None, "created_at": func.now()}
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["digest"], set_=is_back, where=snapshots.c.removed_at.is_not(None)
            )
        )
        return get_snapshot(connection, snapshot.digest)
