"""Rows that come in batches, over HTTP or from a broker: each good row is stored, each bad row is rejected alone.

A batch is one source; line n of its raw text is what row n was made from. Up to some thousands of rows go in with two
statements and no temporary table.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pyarrow as pa
from psycopg.sql import SQL, Literal
from sqlalchemy import Connection, Engine, delete, insert, select, update

from core.contract import Contract
from core.data_errors import RowsRejected, SourceNotFound
from core.errors import Fault
from core.outcome_joins import join_observations_by_id, join_observations_by_time
from core.tables.data import rejected_rows, sources
from ingestion.faults import RowFault
from ingestion.files import TextRows
from ingestion.json_rows import Entry, JsonReader, TextRow, read_line
from ingestion.raw import read_raw, store_raw
from ingestion.receiving import PIECE_BYTES
from ingestion.samples import remove_samples
from ingestion.store import ROW_HASH, list_key, lock_observations, prepare_table
from ingestion.upserts import TypedRows, count_missing_steps, find_contradicting_lines, make_partitions, upsert_rows
from ingestion.validation import LINE, RowChecker, is_required

MAX_ROWS = 5_000
"""Rows of one batch; a longer input is stored in several."""

_MOST_VALUE = 1_000


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch's rows.

    `rows_repeated` are rows whose key another row of the batch has, and that it stands for; `rows_rejected` counts
    rows, `rejected` has each of their faults. `gaps` counts stored rows of this batch whose series lacks the step
    before.
    """

    source_id: UUID
    rows_new: int
    rows_changed: int
    rows_unchanged: int
    rows_repeated: int
    rows_rejected: int
    gaps: int
    ignored_columns: tuple[str, ...]
    rejected: tuple[RowFault, ...]

    @property
    def rows_accepted(self) -> int:
        """Rows of the batch that are in the store now."""
        return self.rows_new + self.rows_changed + self.rows_unchanged + self.rows_repeated


@dataclass
class _Judged:
    """The rows of a batch that may be stored, a table for each set of columns, and the faults of the others."""

    tables: list[pa.Table]
    faults: list[RowFault]
    repeated: int = 0
    ignored: tuple[str, ...] = ()

    def reject(self, faults: Mapping[int, RowFault]) -> None:
        """Take the rows of these lines out."""
        if faults:
            self.faults += faults.values()
            self.tables = [_without_lines(table, faults) for table in self.tables]


@dataclass
class _Counts:
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    gaps: int = 0


@dataclass(frozen=True)
class Batch:
    """Lines as they came and, one for one, what each was read as; `later_wins` is for rows that came one by one.

    In a document, a key that comes twice with other values contradicts itself, and the later row is rejected, as in a
    file. Rows that only happen to be stored together have an order: there the last one under a key stands, whatever
    batch it came in. Rows that are `completed` from outcomes give way to what is stored by any other way, sample data
    included.
    """

    raw: Sequence[bytes]
    entries: Sequence[Entry]
    kind: str
    name: str
    actor: str
    later_wins: bool = False
    is_completed: bool = False
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def store_batch(engine: Engine, contract: Contract, batch: Batch) -> BatchResult:
    """Store the batch in one transaction: rows by key, bad rows in `rejected_rows`, and the lines as they came.

    The same batch again changes nothing but adds its source. Batches and imports of one model wait for each other.
    Raises RowsRejected for a batch without a row.
    """
    if not any(entry is not None for entry in batch.entries):
        fault = Fault("the batch", "no rows", "at least one row is needed")
        raise RowsRejected(contract.model, batch.name, [fault], 1)
    judged = _judge(contract, batch.entries, batch.received_at, later_wins=batch.later_wins)
    source_id = uuid4()
    with engine.begin() as connection:
        lock_observations(connection, contract.model)
        prepare_table(connection, contract)
        if any(table.num_rows for table in judged.tables) and not batch.is_completed:
            remove_samples(connection, contract.model)
        counts = _upsert(connection, contract, judged.tables, source_id, is_completed=batch.is_completed)
        result = _build_result(source_id, judged, counts)
        store_batch_source(
            connection,
            contract.model,
            batch,
            source_id,
            state="imported" if result.rows_accepted else "rejected",
            counts=(result.rows_new, result.rows_changed, result.rows_rejected),
        )
        store_faults(connection, contract.model, source_id, judged.faults)
    return result


def replay_rejected(engine: Engine, contract: Contract, source_id: UUID) -> BatchResult:
    """Judge the rejected rows of a batch again, under the contract as it is now, in one transaction.

    A row that is good now is stored and leaves `rejected_rows`; it still leads back to its line of the batch. A row
    that is still bad keeps its line there with the faults of today. What was stored since is newer than the batch: a
    row whose key is stored with other values stays rejected. Raises SourceNotFound.
    """
    with engine.begin() as connection:
        lock_observations(connection, contract.model)
        prepare_table(connection, contract)
        row = connection.execute(
            select(sources.c.kind).where(sources.c.id == source_id, sources.c.model == contract.model)
        ).first()
        if row is None:
            raise SourceNotFound(contract.model, str(source_id))
        raw = b"".join(read_raw(connection, source_id)).removesuffix(b"\n").split(b"\n")
        chosen = select(rejected_rows.c.line).distinct().where(rejected_rows.c.source_id == source_id)
        lines = {int(line) for line in connection.scalars(chosen) if line is not None}
        entries: list[Entry] = [
            read_kept_line(row.kind, content, line) if line in lines else None
            for line, content in enumerate(raw, start=1)
        ]
        judged = _judge(contract, entries, datetime.now(UTC), later_wins=False)
        judged.reject(_find_contradictions(connection, contract, judged.tables))
        counts = _upsert(connection, contract, judged.tables, source_id)
        connection.execute(delete(rejected_rows).where(rejected_rows.c.source_id == source_id))
        store_faults(connection, contract.model, source_id, judged.faults)
        result = _build_result(source_id, judged, counts)
        connection.execute(
            update(sources)
            .where(sources.c.id == source_id)
            .values(
                rows_new=sources.c.rows_new + result.rows_new,
                rows_rejected=result.rows_rejected,
                state="imported" if result.rows_accepted else sources.c.state,
            )
        )
    return result


def read_kept_line(kind: str, raw: bytes, line: int) -> Entry:
    """A kept line of a batch as the entry that it was: of a message, the row that its topic and payload made."""
    entry = read_line(raw, line)
    if kind != "mqtt" or not isinstance(entry, Mapping):
        return entry
    row = entry.get("row")
    if isinstance(row, Mapping):
        return row
    payload = entry.get("payload", entry.get("payload_hex", ""))
    return RowFault(line, "", str(payload).replace("\0", "\\x00"), str(entry.get("fault", "")))


def _judge(contract: Contract, entries: Sequence[Entry], now: datetime, *, later_wins: bool) -> _Judged:
    if later_wins:
        # A message that is delivered again is a step back of no clock.
        contract = contract.model_copy(update={"order": "any"})
    reader = JsonReader(contract)
    rows, faults = reader.read(entries)
    judged = _Judged([], faults, ignored=tuple(sorted(reader.ignored)))
    for names, group in _group_by_columns(rows).items():
        checker = RowChecker(contract, has_decimal_comma=False, now=now)
        checked = checker.check(_build_text_rows(contract, names, group))
        judged.tables.append(checked.table)
        judged.faults += checked.faults
    if list_key(contract) != (ROW_HASH,):
        _settle_repeats(contract, judged, later_wins=later_wins)
    judged.faults.sort(key=lambda fault: fault.line or 0)
    return judged


def _group_by_columns(rows: Iterable[TextRow]) -> dict[frozenset[str], list[TextRow]]:
    """Rows by the columns that they have: a column that a row lacks keeps what is stored."""
    groups: dict[frozenset[str], list[TextRow]] = {}
    for row in rows:
        groups.setdefault(frozenset(row.cells), []).append(row)
    return groups


def _build_text_rows(contract: Contract, names: frozenset[str], rows: Sequence[TextRow]) -> TextRows:
    lines = np.array([row.line for row in rows], dtype=np.int64)
    empty = pa.array([""] * len(rows), pa.string())
    cells = {
        column.name: pa.array([row.cells[column.name] for row in rows], pa.string()) if column.name in names else empty
        for column in contract.columns
        if column.name in names or (column.default is None and is_required(contract, column))
    }
    return TextRows(lines=lines, cells=cells, faults=(), read_bytes=0)


def _settle_repeats(contract: Contract, judged: _Judged, *, later_wins: bool) -> None:
    """Leave one row under each key: the last, where the later one wins; else the first, if the others agree with it."""
    names = [column.name for column in contract.columns]
    key = list_key(contract)
    rows: list[tuple[int, tuple[object, ...], tuple[object, ...]]] = []
    for table in judged.tables:
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        keys = zip(*(columns[name] for name in key), strict=True)
        present = [name for name in names if name in columns]
        values = zip(*([(name, value) for value in columns[name]] for name in present), strict=True)
        rows += zip(columns[LINE], keys, values, strict=True)
    if len({row[1] for row in rows}) == len(rows):
        return
    rows.sort(key=lambda row: row[0], reverse=later_wins)
    standing: dict[tuple[object, ...], tuple[int, tuple[object, ...]]] = {}
    dropped: set[int] = set()
    contradicting: dict[int, RowFault] = {}
    for line, key_values, values_of_row in rows:
        first = standing.setdefault(key_values, (line, values_of_row))
        if first[0] == line:
            continue
        if later_wins or first[1] == values_of_row:
            dropped.add(line)
        else:
            shown = ", ".join(_show(value) for value in key_values)
            contradicting[line] = RowFault(line, key[-1], shown, f"each key once; line {first[0]} has it too")
    judged.repeated = len(dropped)
    judged.tables = [_without_lines(table, dropped) for table in judged.tables]
    judged.reject(contradicting)


def _show(value: object) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def _without_lines(table: pa.Table, lines: Iterable[int]) -> pa.Table:
    is_kept = ~np.isin(table.column(LINE).to_numpy(), list(lines))
    return table if is_kept.all() else table.filter(pa.array(is_kept))


def _find_contradictions(connection: Connection, contract: Contract, tables: Sequence[pa.Table]) -> dict[int, RowFault]:
    key = list_key(contract)
    found: dict[int, RowFault] = {}
    for rows in _list_typed(contract, tables):
        lines = set(find_contradicting_lines(connection, contract, rows))
        for at, line in enumerate(rows.columns[LINE]):
            if line in lines:
                shown = ", ".join(_show(rows.columns[name][at]) for name in key)
                found[line] = RowFault(line, key[-1], shown, "each key once; other values are stored under it")
    return found


def _upsert(
    connection: Connection,
    contract: Contract,
    tables: Sequence[pa.Table],
    source_id: UUID,
    *,
    is_completed: bool = False,
) -> _Counts:
    counts = _Counts()
    for rows in _list_typed(contract, tables):
        make_partitions(connection, contract, rows)
        new, changed = upsert_rows(connection, contract, rows, source_id, is_completed=is_completed)
        counts.new += new
        counts.changed += changed
        counts.unchanged += rows.count - new - changed
    # After all of them: a row of one group may be the step before one of another.
    _join_outcomes(connection, contract, tables, source_id)
    counts.gaps = sum(count_missing_steps(connection, contract, rows) for rows in _list_typed(contract, tables))
    return counts


def _join_outcomes(connection: Connection, contract: Contract, tables: Sequence[pa.Table], source_id: UUID) -> None:
    """The rows are the outcomes of what was predicted under their keys."""
    name = contract.key.time or contract.key.id
    if name is None:
        return
    keys = [value for table in tables for value in table.column(name).to_pylist()]
    if not keys:
        return
    if contract.key.time is not None:
        join_observations_by_time(connection, contract, source_id, min(keys), max(keys))
    else:
        ids = SQL("SELECT unnest({}::text[])").format(Literal([str(key) for key in keys]))
        join_observations_by_id(connection, contract, source_id, ids)


def _list_typed(contract: Contract, tables: Sequence[pa.Table]) -> list[TypedRows]:
    typed = []
    for table in tables:
        if table.num_rows:
            columns: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in table.column_names}
            names = tuple(column.name for column in contract.columns if column.name in columns)
            typed.append(TypedRows(names, columns))
    return typed


def _build_result(source_id: UUID, judged: _Judged, counts: _Counts) -> BatchResult:
    return BatchResult(
        source_id=source_id,
        rows_new=counts.new,
        rows_changed=counts.changed,
        rows_unchanged=counts.unchanged,
        rows_repeated=judged.repeated,
        rows_rejected=len({fault.line for fault in judged.faults}),
        gaps=counts.gaps,
        ignored_columns=judged.ignored,
        rejected=tuple(judged.faults),
    )


def store_batch_source(
    connection: Connection,
    model: str,
    batch: Batch,
    source_id: UUID,
    *,
    state: str,
    counts: tuple[int, int, int],
    brings: str = "observations",
) -> None:
    """Record the batch as a source, with its lines and the counts of new, changed and rejected rows."""
    content = b"\n".join(batch.raw) + b"\n"
    connection.execute(
        insert(sources).values(
            id=source_id,
            model=model,
            kind=batch.kind,
            form="rows",
            name=batch.name,
            actor=batch.actor,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            state=state,
            rows_new=counts[0],
            rows_changed=counts[1],
            rows_rejected=counts[2],
            brings=brings,
        )
    )
    store_raw(connection, source_id, (content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)))


def store_faults(connection: Connection, model: str, source_id: UUID, faults: Iterable[RowFault]) -> None:
    """Write what is wrong with rows of a source to `rejected_rows`."""
    rows = [
        {
            "model": model,
            "source_id": source_id,
            "line": fault.line,
            "column": fault.column,
            "value": fault.value[:_MOST_VALUE],
            "rule": fault.rule,
        }
        for fault in faults
    ]
    if rows:
        connection.execute(insert(rejected_rows), rows)
