"""Rejected rows: listed, exported for a spreadsheet, and replayed from their kept raw bytes after a fix."""

import csv
from dataclasses import dataclass
from datetime import datetime
from tempfile import TemporaryFile
from typing import IO
from uuid import UUID

from sqlalchemy import Connection, Engine, Select, select

from core.contract import Contract
from core.data_errors import SourceNotFound
from core.spreadsheets import neutralise
from core.tables.data import rejected_rows, sources
from ingestion.batches import BatchResult, replay_rejected
from ingestion.importing import ImportResult, import_file
from ingestion.raw import read_raw

ROWS = "rows"
"""Form of a source that is a batch of rows, of which good ones are stored and bad ones rejected alone."""

_FETCH_ROWS = 1_000
_HEADING = ("id", "rejected_at", "source", "source_id", "form", "line", "column", "value", "rule")


@dataclass(frozen=True)
class RejectedRow:
    """One broken rule; `line` is None where it is about the whole source."""

    id: int
    rejected_at: datetime
    source_id: UUID
    source: str
    form: str
    line: int | None
    column: str
    value: str
    rule: str


def load_rejected(connection: Connection, model: str, limit: int, before: int | None = None) -> list[RejectedRow]:
    """What was rejected and not replayed since, newest first, from below the id `before` on."""
    query = _build_query(model).order_by(rejected_rows.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(rejected_rows.c.id < before)
    return [RejectedRow(**row._mapping) for row in connection.execute(query)]


def export_rejected(connection: Connection, model: str, file: IO[str]) -> int:
    """Write all of it, oldest first, as CSV in which a spreadsheet finds no formula; how many rows.

    The file is opened with `newline=""`.
    """
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(_HEADING)
    count = 0
    query = _build_query(model).order_by(rejected_rows.c.id)
    for row in connection.execution_options(yield_per=_FETCH_ROWS).execute(query):
        cells = {**row._mapping, "rejected_at": row.rejected_at.isoformat()}
        lines.writerow(["" if cells[name] is None else neutralise(str(cells[name])) for name in _HEADING])
        count += 1
    return count


def list_replayable(connection: Connection, model: str) -> list[UUID]:
    """The refused files that were not replayed, and the batches with rejected rows; oldest first.

    Outcomes are not among them: those that were rejected are sent again.
    """
    has_rejected = select(rejected_rows.c.id).where(rejected_rows.c.source_id == sources.c.id).exists()
    is_refused = (sources.c.form == ROWS) | (sources.c.state == "rejected")
    query = select(sources.c.id).where(
        sources.c.model == model,
        sources.c.brings == "observations",
        sources.c.replayed_at.is_(None),
        is_refused,
        has_rejected,
    )
    return list(connection.scalars(query.order_by(sources.c.received_at, sources.c.id)))


def replay(engine: Engine, contract: Contract, source_id: UUID, *, actor: str) -> ImportResult | BatchResult:
    """Bring what a source had rejected in anew, under the present contract.

    A file is imported as a whole from its raw bytes, as a new source; the rejection then counts as replayed. Where it
    is refused again, RowsRejected is raised, and what is wrong with it now takes the place of what was. Of a batch the
    rejected rows are judged again. Raises SourceNotFound where the model has no such source.
    """
    with engine.connect() as connection:
        if source_id not in list_replayable(connection, contract.model):
            raise SourceNotFound(contract.model, str(source_id))
        source = connection.execute(select(sources).where(sources.c.id == source_id)).one()
    if source.form == ROWS:
        return replay_rejected(engine, contract, source_id)
    with TemporaryFile(prefix="millrace-") as copy:
        with engine.connect() as connection:
            copy.writelines(read_raw(connection, source_id))
        copy.seek(0)
        return import_file(
            engine,
            contract,
            copy,
            name=source.name,
            actor=actor,
            kind=source.kind,
            encoding=source.encoding,
            sheet=source.sheet,
            # What was taken in once was within the limit of its day.
            max_bytes=source.bytes,
        )


def _build_query(model: str) -> Select[tuple[object, ...]]:
    columns = rejected_rows.c
    return (
        select(
            columns.id,
            columns.rejected_at,
            columns.source_id,
            sources.c.name.label("source"),
            sources.c.form,
            columns.line,
            columns.column,
            columns.value,
            columns.rule,
        )
        .join(sources, sources.c.id == columns.source_id)
        .where(columns.model == model, sources.c.replayed_at.is_(None))
    )
