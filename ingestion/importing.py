"""One file into one workload's observations: all of it, or nothing but the record of why not."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

import pyarrow as pa
from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from core.contract import Contract
from core.data_errors import RowsRejected
from core.outcome_joins import join_observations_by_id, join_observations_by_time
from core.tables.data import rejected_rows, sources
from ingestion.appending import Appending, OutOfOrder
from ingestion.encodings import Encoding
from ingestion.fault_log import SpooledFaults, spooling_faults
from ingestion.faults import RowFault, Unreadable
from ingestion.files import Heading
from ingestion.forms import open_rows
from ingestion.gaps import Gap, GapReport
from ingestion.raw import has_raw, store_raw
from ingestion.receiving import Received, receiving
from ingestion.samples import SAMPLE, remove_samples
from ingestion.staging import Counts, Staging
from ingestion.store import lock_observations, prepare_table
from ingestion.validation import RowChecker, find_missing_columns, list_columns

logger = logging.getLogger(__name__)

MAX_BYTES = 4 << 30

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and in all."""
OnStored = Callable[[Connection, "ImportResult"], None]


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    `rows_repeated` were the same as an earlier row of the file; `rows_rejected` had an earlier row's key and other
    values, where the contract says that such rows do not refuse the file. `sample_rows_replaced` are rows of sample
    data that made way for the first rows of one's own. `gaps` are places where the series misses steps; `first_gaps`
    names the first few.
    """

    source_id: UUID
    rows_new: int
    rows_changed: int
    rows_unchanged: int
    rows_repeated: int
    rows_rejected: int
    sample_rows_replaced: int
    gaps: int
    first_gaps: tuple[Gap, ...]
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
    encoding: Encoding | None = None,
    sheet: str | None = None,
    max_bytes: int = MAX_BYTES,
    source_id: UUID | None = None,
    reuses_source: bool = False,
    on_stored: OnStored | None = None,
    on_progress: Progress | None = None,
) -> ImportResult:
    """Import a CSV, XLSX, Parquet or JSON file in one transaction.

    The death of this process at any moment leaves nothing of it.

    Raw bytes and rows are stored together. A file with any fault is refused as a whole: RowsRejected is raised, and
    the raw bytes and every fault stay, under a source in state `rejected`. The same file again is a source of its own
    whose raw bytes are not stored twice; rows that it does not change keep the source that brought them, and what was
    rejected of it before gives way to what is now.

    The first import of another kind than `sample` replaces the sample data. A stream is read from where it stands.
    Imports of one model wait for each other. The source gets `source_id`, so that a caller who dies meanwhile can find
    out later whether the import was stored. With `reuses_source` a file whose bytes came before, and which changes
    nothing, is no source of its own: the result names the earlier one. `on_stored` is called with the result in the
    same transaction; what it raises leaves nothing of the import.
    """
    model = contract.model
    # The file is taken in before the transaction begins: a slow sender holds no lock.
    with (
        receiving(source, model=model, name=name, max_bytes=max_bytes, encoding=encoding) as received,
        spooling_faults() as faults,
        engine.begin() as connection,
    ):
        lock_observations(connection, model)
        prepare_table(connection, contract)
        source_id = source_id or uuid4()
        origin = {"name": name, "actor": actor, "kind": kind, "sheet": sheet, "brings": "observations"}
        store_file_source(connection, source_id, model, received, origin)
        with connection.begin_nested() as attempt:
            replaced = 0 if kind == SAMPLE else remove_samples(connection, model)
            rows = _Import(connection, contract, received, sheet, source_id, faults, replaced, on_progress)
            result = rows.take_rows()
            if result is None:
                attempt.rollback()
        faults.store(connection, model, source_id)
        _close_source(connection, source_id, result)
        if result is not None and reuses_source:
            result = _reuse_source(connection, model, received, sheet, result)
        if result is not None and on_stored is not None:
            on_stored(connection, result)
    if result is None:
        raise RowsRejected(model, name, faults.kept, faults.total)
    return result


def store_file_source(
    connection: Connection, source_id: UUID, model: str, received: Received, origin: Mapping[str, str | None]
) -> None:
    """Record the source, which takes the place of earlier ones of the same bytes, and those bytes unless they are kept.

    A workbook's sheets are inputs of their own, and so are outcomes. `origin` has name, actor, kind, sheet and what it
    brings.
    """
    is_kept = has_raw(connection, model, received.sha256)
    connection.execute(
        update(sources)
        .where(
            sources.c.model == model,
            sources.c.sha256 == received.sha256,
            sources.c.form == received.form,
            sources.c.brings == origin["brings"],
            sources.c.sheet.is_not_distinct_from(origin["sheet"]),
            (sources.c.state == "rejected") | (sources.c.rows_rejected > 0),
            sources.c.replayed_at.is_(None),
        )
        .values(replayed_at=func.now())
    )
    connection.execute(
        insert(sources).values(
            id=source_id,
            model=model,
            form=received.form,
            encoding=received.encoding,
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
        store_raw(connection, source_id, received.read_pieces())


def _close_source(connection: Connection, source_id: UUID, result: ImportResult | None) -> None:
    statement = update(sources).where(sources.c.id == source_id)
    if result is not None:
        counts = {name: getattr(result, name) for name in ("rows_new", "rows_changed", "rows_rejected")}
        connection.execute(statement.values(**counts))
        return
    lines = select(func.count(rejected_rows.c.line.distinct())).where(rejected_rows.c.source_id == source_id)
    connection.execute(statement.values(state="rejected", rows_rejected=lines.scalar_subquery()))


def _reuse_source(
    connection: Connection, model: str, received: Received, sheet: str | None, result: ImportResult
) -> ImportResult:
    """Take back the record of a source that changed nothing, if the same bytes were imported before."""
    if result.rows_new or result.rows_changed or result.rows_rejected:
        return result
    earlier = connection.scalar(
        select(sources.c.id)
        .where(
            sources.c.model == model,
            sources.c.sha256 == received.sha256,
            sources.c.form == received.form,
            sources.c.sheet.is_not_distinct_from(sheet),
            sources.c.encoding.is_not_distinct_from(received.encoding),
            sources.c.state == "imported",
            sources.c.id != result.source_id,
        )
        .order_by(sources.c.received_at)
        .limit(1)
    )
    if earlier is None:
        return result
    connection.execute(delete(sources).where(sources.c.id == result.source_id))
    return replace(result, source_id=earlier)


@dataclass
class _Import:
    """The way of one file's rows, inside its transaction."""

    connection: Connection
    contract: Contract
    received: Received
    sheet: str | None
    source_id: UUID
    faults: SpooledFaults
    sample_rows_replaced: int
    on_progress: Progress | None

    def take_rows(self) -> ImportResult | None:
        """Store the rows; None where there are faults, all of them noted."""
        try:
            heading = self._find_heading()
            if self.contract.key.time is not None:
                try:
                    with self.connection.begin_nested():
                        return self._append(heading)
                except OutOfOrder:
                    logger.debug("rows of %s are not in order, or meet stored ones: they are merged", self.source_id)
            return self._merge(heading)
        except Unreadable as unreadable:
            self.faults.add(unreadable.faults)
            return None

    def _find_heading(self) -> Heading:
        """The file's heading, with every column that the contract needs; raises Unreadable."""
        heading = open_rows(self.received, self.contract, self.sheet).heading
        missing = find_missing_columns(self.contract, heading.columns, heading.ignored, heading.line)
        if missing:
            raise Unreadable(missing)
        return heading

    def _append(self, heading: Heading) -> ImportResult | None:
        """The short way, for rows in order where nothing is stored; raises OutOfOrder, and Unreadable."""
        appending = Appending(self.connection, self.contract, self.source_id)
        self._read(heading, appending.add)
        if self.faults.total:
            return None
        appending.close_input()
        self._check_length(appending.count_longest, heading)
        if self.faults.total:
            return None
        counts = Counts(new=appending.rows, changed=0, unchanged=0)
        return self._conclude(heading, counts, 0, 0, appending.gaps, appending.find_span())

    def _merge(self, heading: Heading) -> ImportResult | None:
        """The way for every input: gather the rows, judge them as a whole, merge them by key; raises Unreadable."""
        staging = Staging(self.connection, self.contract, list_columns(self.contract, heading.columns))
        self._read(heading, staging.add)
        if self.faults.total:
            return None
        staging.close_input()
        repeated = 0 if self._is_unbroken else staging.collapse_repeats()
        rejected = self._settle_repeated_keys(staging)
        gaps = GapReport()
        if self._is_unbroken:
            time, step = self.contract.key.time or "", timedelta(seconds=self.contract.step_s or 0.0)
            self.faults.add(gap.to_fault(time, step) for gap in staging.find_gaps())
        else:
            for gap in staging.find_gaps():
                gaps.add(gap)
        self._check_length(staging.count_longest, heading)
        if self.faults.total:
            return None
        span = staging.find_span()
        counts = staging.merge(self.source_id)
        if self.contract.key.time is None and self.contract.key.id is not None:
            join_observations_by_id(self.connection, self.contract, self.source_id, staging.select_ids())
        return self._conclude(heading, counts, repeated, rejected, gaps, span)

    def _settle_repeated_keys(self, staging: Staging) -> int:
        """Note rows whose key an earlier row has; how many were taken out, where that does not refuse the file."""
        if self.contract.repeats == "refuse":
            self.faults.add(staging.find_repeated_keys())
            return 0
        self.faults.add_left_out(staging.find_repeated_keys())
        return staging.drop_repeated_keys()

    @property
    def _is_unbroken(self) -> bool:
        """Whether every time must be one step after another; one that comes twice is no step, whatever its values."""
        return self.contract.step_s is not None and self.contract.gaps == "refuse"

    def _read(self, heading: Heading, store: Callable[[pa.Table], None]) -> None:
        """Check the file's rows and store them as long as there is no fault; raises Unreadable."""
        checker = RowChecker(self.contract, has_decimal_comma=heading.has_decimal_comma, now=datetime.now(UTC))
        rows = 0
        for text_rows in open_rows(self.received, self.contract, self.sheet).rows:
            checked = checker.check(text_rows)
            rows += len(text_rows.lines)
            self.faults.add(checked.faults)
            if not self.faults.total:
                store(checked.table)
            if self.on_progress is not None:
                self.on_progress(text_rows.read_bytes, self.received.size_bytes)
        if rows == 0 and not self.faults.total:
            rule = "at least one row below the heading is needed"
            self.faults.add([RowFault(heading.first_line, "", "no rows", rule)])

    def _check_length(self, count_longest: Callable[[int], int], heading: Heading) -> None:
        """A series has to have the rows of one window and its target."""
        if self.contract.kind != "sequence":
            return
        needed = self.contract.steps + 1
        length = count_longest(needed)
        if length < needed:
            rule = f"{needed} rows are needed with the stored ones, {self.contract.steps} of a window and its target"
            self.faults.add([RowFault(heading.first_line, self.contract.key.time or "", f"{length} rows", rule)])

    def _conclude(
        self,
        heading: Heading,
        counts: Counts,
        repeated: int,
        rejected: int,
        gaps: GapReport,
        span: tuple[datetime | None, datetime | None],
    ) -> ImportResult:
        if span[0] is not None and span[1] is not None:
            join_observations_by_time(self.connection, self.contract, self.source_id, span[0], span[1])
        return ImportResult(
            source_id=self.source_id,
            rows_new=counts.new,
            rows_changed=counts.changed,
            rows_unchanged=counts.unchanged,
            rows_repeated=repeated,
            rows_rejected=rejected,
            sample_rows_replaced=self.sample_rows_replaced,
            gaps=gaps.count,
            first_gaps=tuple(gaps.first),
            ignored_columns=heading.ignored,
            first_at=span[0],
            last_at=span[1],
        )
