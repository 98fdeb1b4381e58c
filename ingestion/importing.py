"""One file into one workload's observations: all of it, or nothing but the record of why not."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, exists, func, insert, select, update

from core.contract import Contract
from core.errors import Fault, RowsRejected
from core.tables import rejected_rows, source_pieces, sources
from ingestion.faults import RowFault, Unreadable
from ingestion.files import Heading, read_heading, read_rows
from ingestion.receiving import Received, receiving
from ingestion.staging import Staging
from ingestion.store import get_raw_connection, lock_observations, prepare_table
from ingestion.validation import RowChecker, find_missing_columns

MAX_BYTES = 4 << 30
KEPT_FAULTS = 100
"""Faults that the error itself carries; all of them are in `rejected_rows`."""

_MOST_VALUE = 1_000
# The fastest level: the raw text of numbers shrinks to under a half with it, and importing stays bound by the database.
_COMPRESSION = 1

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and in all."""


@dataclass(frozen=True)
class ImportResult:
    """What an import did. `rows_repeated` were the same as an earlier row of the file; `gaps` are missing steps."""

    source_id: UUID
    rows_new: int
    rows_changed: int
    rows_unchanged: int
    rows_repeated: int
    gaps: int
    ignored_columns: tuple[str, ...]
    first_at: datetime | None
    last_at: datetime | None


def import_file(
    engine: Engine,
    contract: Contract,
    source: Path | BinaryIO,
    *,
    name: str,
    actor: str,
    kind: str = "file",
    max_bytes: int = MAX_BYTES,
    on_progress: Progress | None = None,
) -> ImportResult:
    """Import a CSV file in one transaction; the death of this process at any moment leaves nothing of it.

    Raw bytes and rows are stored together. A file with any fault is refused as a whole: RowsRejected is raised, and
    the raw bytes and every fault stay, under a source in state `rejected`. The same file again is a source of its own
    whose raw bytes are not stored twice; rows that it does not change keep the source that brought them.
    A stream is read from where it stands. Imports of one model wait for each other.
    """
    model = contract.model
    # The file is taken in before the transaction begins: a slow sender holds no lock.
    with receiving(source, model=model, name=name, max_bytes=max_bytes) as received, engine.begin() as connection:
        lock_observations(connection, model)
        prepare_table(connection, contract)
        source_id = _store_source(connection, model, received, {"name": name, "actor": actor, "kind": kind})
        faults = _FaultLog(connection, model, source_id)
        result = _Import(connection, contract, received, source_id, faults, on_progress).take_rows()
        _close_source(connection, source_id, result)
    if result is None:
        raise RowsRejected(model, name, faults.kept, faults.total)
    return result


@dataclass
class _FaultLog:
    """Writes every fault to `rejected_rows` as it is found; keeps the first few for the error."""

    connection: Connection
    model: str
    source_id: UUID
    kept: list[Fault] = field(default_factory=list)
    total: int = 0

    def add(self, faults: Iterable[RowFault]) -> None:
        rows = []
        for fault in faults:
            self.total += 1
            if len(self.kept) < KEPT_FAULTS:
                self.kept.append(fault.to_fault())
            rows.append(fault)
        if not rows:
            return
        statement = 'COPY rejected_rows (model, source_id, line, "column", value, rule) FROM STDIN'
        with get_raw_connection(self.connection).cursor() as cursor, cursor.copy(statement) as copy:
            for fault in rows:
                copy.write_row(
                    (self.model, self.source_id, fault.line, fault.column, fault.value[:_MOST_VALUE], fault.rule)
                )


def _store_source(connection: Connection, model: str, received: Received, origin: Mapping[str, str]) -> UUID:
    """Record the source, and its raw bytes unless another source of the model has the same."""
    source_id = uuid4()
    has_same_bytes = (sources.c.model == model) & (sources.c.sha256 == received.sha256)
    is_kept = connection.scalar(select(exists().where(has_same_bytes, source_pieces.c.source_id == sources.c.id)))
    connection.execute(
        insert(sources).values(
            id=source_id,
            model=model,
            sha256=received.sha256,
            bytes=received.size_bytes,
            state="imported",
            rows_new=0,
            rows_changed=0,
            rows_rejected=0,
            **origin,
        )
    )
    if not is_kept:
        for number, piece in enumerate(received.read_pieces()):
            content = zlib.compress(piece, _COMPRESSION)
            connection.execute(insert(source_pieces).values(source_id=source_id, piece=number, content=content))
    return source_id


def _close_source(connection: Connection, source_id: UUID, result: ImportResult | None) -> None:
    statement = update(sources).where(sources.c.id == source_id)
    if result is not None:
        connection.execute(statement.values(rows_new=result.rows_new, rows_changed=result.rows_changed))
        return
    lines = select(func.count(rejected_rows.c.line.distinct())).where(rejected_rows.c.source_id == source_id)
    connection.execute(statement.values(state="rejected", rows_rejected=lines.scalar_subquery()))


@dataclass
class _Import:
    """The way of one file's rows, inside its transaction."""

    connection: Connection
    contract: Contract
    received: Received
    source_id: UUID
    faults: _FaultLog
    on_progress: Progress | None

    def take_rows(self) -> ImportResult | None:
        """Stage, judge and merge the rows; None where there are faults, all of them logged."""
        try:
            staging, heading = self._stage()
        except Unreadable as unreadable:
            self.faults.add(unreadable.faults)
            return None
        if self.faults.total:
            return None
        staging.close_input()
        repeated = 0 if self._is_unbroken else staging.collapse_repeats()
        self.faults.add(staging.find_repeated_keys())
        gaps = self._judge_series(staging, heading)
        if self.faults.total:
            return None
        first_at, last_at = staging.find_span()
        counts = staging.merge(self.source_id)
        return ImportResult(
            source_id=self.source_id,
            rows_new=counts.new,
            rows_changed=counts.changed,
            rows_unchanged=counts.unchanged,
            rows_repeated=repeated,
            gaps=gaps,
            ignored_columns=heading.ignored,
            first_at=first_at,
            last_at=last_at,
        )

    @property
    def _is_unbroken(self) -> bool:
        """Whether every time must be one step after another; one that comes twice is no step, whatever its values."""
        return self.contract.step_s is not None and self.contract.gaps == "refuse"

    def _stage(self) -> tuple[Staging, Heading]:
        """Read the file into a staging, logging the faults of its cells; raises Unreadable."""
        if self.received.fault is not None:
            raise Unreadable([self.received.fault])
        heading = read_heading(self.received.copy, self.contract)
        missing = find_missing_columns(self.contract, heading.columns, heading.ignored, heading.line)
        if missing:
            raise Unreadable(missing)
        staging = Staging(self.connection, self.contract, tuple(heading.columns))
        now = datetime.now(UTC)
        checker = RowChecker(self.contract, has_decimal_comma=heading.has_decimal_comma, now=now)
        rows = 0
        for text_rows in read_rows(self.received, heading):
            checked = checker.check(text_rows)
            rows += len(text_rows.lines)
            self.faults.add(checked.faults)
            if not self.faults.total:
                staging.add(checked.table)
            if self.on_progress is not None:
                self.on_progress(text_rows.read_bytes, self.received.size_bytes)
        if rows == 0 and not self.faults.total:
            rule = "at least one row below the heading is needed"
            self.faults.add([RowFault(heading.first_line, "", "no rows", rule)])
        return staging, heading

    def _judge_series(self, staging: Staging, heading: Heading) -> int:
        """Log what is wrong with the series as a whole; how many gaps there are where they are allowed."""
        gaps = 0
        if self._is_unbroken:
            self.faults.add(staging.find_gaps())
        else:
            gaps = sum(1 for _ in staging.find_gaps())
        if self.contract.kind == "sequence":
            needed = self.contract.steps + 1
            length = staging.count_longest(needed)
            if length < needed:
                rule = (
                    f"{needed} rows are needed with the stored ones, {self.contract.steps} of a window and its target"
                )
                time = self.contract.key.time or ""
                self.faults.add([RowFault(heading.first_line, time, f"{length} rows", rule)])
        return gaps
