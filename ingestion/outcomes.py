"""Outcomes on their way in: rows, messages and files, of which each bad row is rejected alone.

An outcome that says nothing new changes nothing; another value for the same prediction, or the same key, replaces the
earlier one, which stays in the table with the time of that. What no prediction is there for yet waits, and is joined
by whoever ships the prediction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from psycopg.sql import SQL, Composable, Literal
from sqlalchemy import Connection, Engine, update

from core.contract import Contract
from core.data_errors import RowsRejected
from core.errors import Fault
from core.outcome_joins import join_outcomes, lock_outcomes
from core.tables.data import sources
from ingestion.batches import Batch, store_batch_source, store_faults
from ingestion.encodings import Encoding
from ingestion.fault_log import KEPT_FAULTS, spooling_faults
from ingestion.faults import RowFault, Unreadable
from ingestion.forms import open_rows
from ingestion.importing import store_file_source
from ingestion.json_rows import JsonReader
from ingestion.outcome_rows import Outcome, OutcomeChecker, build_outcome_contract, build_text_rows
from ingestion.receiving import receiving
from ingestion.store import get_raw_connection

OUTCOMES = "outcomes"
"""What a source brings that is no source of observations."""


@dataclass(frozen=True)
class OutcomesResult:
    """What became of the outcomes of one batch or file.

    `outcomes_new` are those of predictions, or keys, that had none, `outcomes_corrected` those that replaced another
    value, `outcomes_repeated` those that a later row of the same input stands for. Of the first two `outcomes_joined`
    have their prediction and `outcomes_waiting` do not yet. `rejected` has the first faults, all are kept.
    """

    source_id: UUID
    outcomes_new: int
    outcomes_corrected: int
    outcomes_unchanged: int
    outcomes_repeated: int
    outcomes_rejected: int
    outcomes_joined: int
    outcomes_waiting: int
    ignored_columns: tuple[str, ...]
    rejected: tuple[RowFault, ...]

    @property
    def outcomes_accepted(self) -> int:
        """Rows that are no fault."""
        return self.outcomes_new + self.outcomes_corrected + self.outcomes_unchanged + self.outcomes_repeated


@dataclass
class _Counts:
    new: int = 0
    corrected: int = 0
    unchanged: int = 0
    repeated: int = 0
    joined: int = 0
    rejected_lines: set[int] = field(default_factory=set)
    faults: list[RowFault] = field(default_factory=list)

    def reject(self, faults: Iterable[RowFault]) -> None:
        """Count rejected rows, and keep the first faults."""
        for fault in faults:
            self.rejected_lines.add(fault.line or 0)
            if len(self.faults) < KEPT_FAULTS:
                self.faults.append(fault)

    def build_result(self, source_id: UUID, ignored: Sequence[str]) -> OutcomesResult:
        """What became of all of them."""
        return OutcomesResult(
            source_id=source_id,
            outcomes_new=self.new,
            outcomes_corrected=self.corrected,
            outcomes_unchanged=self.unchanged,
            outcomes_repeated=self.repeated,
            outcomes_rejected=len(self.rejected_lines),
            outcomes_joined=self.joined,
            outcomes_waiting=self.new + self.corrected - self.joined,
            ignored_columns=tuple(ignored),
            rejected=tuple(self.faults),
        )


def store_outcomes(engine: Engine, contract: Contract, batch: Batch) -> OutcomesResult:
    """Store the batch in one transaction: outcomes, bad rows in `rejected_rows`, and the lines as they came.

    Raises RowsRejected for a batch without a row, and OutcomesNotTaken.
    """
    wanted = build_outcome_contract(contract)
    if not any(entry is not None for entry in batch.entries):
        raise RowsRejected(contract.model, batch.name, [Fault("the batch", "no rows", "at least one row is needed")], 1)
    reader = JsonReader(wanted)
    rows, faults = reader.read(batch.entries)
    checker = OutcomeChecker(contract, has_decimal_comma=False, now=batch.received_at)
    found, unfit = checker.check(build_text_rows(wanted, rows)) if rows else ([], [])
    counts = _Counts()
    faults = sorted([*faults, *unfit], key=lambda fault: fault.line or 0)
    counts.reject(faults)
    source_id = uuid4()
    with engine.begin() as connection:
        lock_outcomes(connection, contract.model)
        store_batch_source(
            connection,
            contract.model,
            batch,
            source_id,
            state="imported" if found else "rejected",
            counts=(0, 0, len(counts.rejected_lines)),
            brings=OUTCOMES,
        )
        _store(connection, contract, source_id, found, counts)
        store_faults(connection, contract.model, source_id, faults)
        _close_source(connection, source_id, counts)
    return counts.build_result(source_id, sorted(reader.ignored))


def import_outcomes(
    engine: Engine,
    contract: Contract,
    source: Path | BinaryIO,
    *,
    name: str,
    actor: str,
    kind: str = "file",
    encoding: Encoding | None = None,
    sheet: str | None = None,
    max_bytes: int,
) -> OutcomesResult:
    """Import a CSV, XLSX, Parquet or JSON file of outcomes in one transaction; each bad row is rejected alone.

    A file that cannot be read, or of which no row is good, is refused: RowsRejected is raised, and the raw bytes and
    every fault stay.
    """
    wanted = build_outcome_contract(contract)
    model, source_id, counts = contract.model, uuid4(), _Counts()
    ignored: Sequence[str] = ()
    with (
        receiving(source, model=model, name=name, max_bytes=max_bytes, encoding=encoding) as received,
        spooling_faults() as faults,
        engine.begin() as connection,
    ):
        lock_outcomes(connection, model)
        origin = {"name": name, "actor": actor, "kind": kind, "sheet": sheet, "brings": OUTCOMES}
        store_file_source(connection, source_id, model, received, origin)
        try:
            heading = open_rows(received, wanted, sheet).heading
            ignored = heading.ignored
            checker = OutcomeChecker(contract, has_decimal_comma=heading.has_decimal_comma, now=datetime.now(UTC))
            for rows in open_rows(received, wanted, sheet).rows:
                found, unfit = checker.check(rows)
                faults.add(unfit)
                counts.reject(unfit)
                _store(connection, contract, source_id, found, counts)
        except Unreadable as unreadable:
            faults.add(unreadable.faults)
            counts.reject(unreadable.faults)
        result = counts.build_result(source_id, ignored)
        if not result.outcomes_accepted and not counts.faults:
            empty = RowFault(1, "", "no rows", "at least one row below the heading is needed")
            faults.add([empty])
            counts.reject([empty])
        faults.store(connection, model, source_id)
        _close_source(connection, source_id, counts, is_accepted=result.outcomes_accepted > 0)
    if not result.outcomes_accepted:
        raise RowsRejected(model, name, faults.kept, faults.total)
    return result


def _close_source(connection: Connection, source_id: UUID, counts: _Counts, *, is_accepted: bool = True) -> None:
    values: dict[str, object] = {
        "rows_new": counts.new,
        "rows_changed": counts.corrected,
        "rows_rejected": len(counts.rejected_lines),
    }
    if not is_accepted:
        values["state"] = "rejected"
    connection.execute(update(sources).where(sources.c.id == source_id).values(values))


def _store(
    connection: Connection, contract: Contract, source_id: UUID, found: Sequence[Outcome], counts: _Counts
) -> None:
    """Store outcomes and join them with the predictions that are there, under the model's lock."""
    standing = {(one.prediction_id, one.step, one.entity, one.time): one for one in found}
    counts.repeated += len(found) - len(standing)
    for is_by_id in (True, False):
        chosen = [one for one in standing.values() if (one.prediction_id is not None) is is_by_id]
        if chosen:
            _store_alike(connection, contract, source_id, chosen, counts, is_by_id=is_by_id)


def _store_alike(
    connection: Connection,
    contract: Contract,
    source_id: UUID,
    chosen: Sequence[Outcome],
    counts: _Counts,
    *,
    is_by_id: bool,
) -> None:
    raw = get_raw_connection(connection)
    incoming = SQL(
        "unnest({}::uuid[], {}::smallint[], {}::text[], {}::timestamptz[], {}::double precision[], {}::bigint[])"
        " AS incoming (prediction_id, step, entity, time, value, line)"
    ).format(
        Literal([one.prediction_id for one in chosen]),
        Literal([one.step for one in chosen]),
        Literal([one.entity for one in chosen]),
        Literal([one.time for one in chosen]),
        Literal([one.value for one in chosen]),
        Literal([one.line for one in chosen]),
    )
    same = _build_same(contract, is_by_id=is_by_id)
    corrected = raw.execute(
        SQL(
            "UPDATE outcomes AS outcome SET replaced_at = now() FROM {} WHERE {} AND outcome.value <> incoming.value"
        ).format(incoming, same)
    ).rowcount
    inserted = raw.execute(
        SQL(
            "INSERT INTO outcomes (model, prediction_id, step, entity, time, value, source_id, line)"
            " SELECT {}, prediction_id, step, entity, time, value, {}, line FROM {}"
            " WHERE NOT EXISTS (SELECT FROM outcomes AS outcome WHERE {}) RETURNING id"
        ).format(Literal(contract.model), Literal(source_id), incoming, same)
    ).fetchall()
    counts.corrected += corrected
    counts.new += len(inserted) - corrected
    counts.unchanged += len(chosen) - len(inserted)
    counts.joined += join_outcomes(connection, contract, [int(str(row[0])) for row in inserted])


def _build_same(contract: Contract, *, is_by_id: bool) -> Composable:
    """Whether a current outcome is of the same prediction, or the same key, as an incoming one."""
    current = SQL("outcome.model = {} AND outcome.replaced_at IS NULL AND ").format(Literal(contract.model))
    if is_by_id:
        return current + SQL(
            "outcome.prediction_id IS NOT NULL AND outcome.prediction_id = incoming.prediction_id"
            " AND outcome.step = incoming.step"
        )
    time = SQL("outcome.time = incoming.time" if contract.key.time is not None else "outcome.time IS NULL")
    return current + SQL("outcome.prediction_id IS NULL AND outcome.entity = incoming.entity AND ") + time
