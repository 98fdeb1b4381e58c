"""The gate's verdicts, stored check by check."""

import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Row, Select, func, select
from sqlalchemy.dialects.postgresql import insert

from core.registry import PRODUCTION_STAGE
from core.tables.versions import transitions, verdicts

VerdictOutcome = Literal["promote", "keep", "insufficient_evidence", "refuse"]


@dataclass(frozen=True)
class Check:
    """One check of the gate: what was measured, what it was held against, and why it passed or did not."""

    name: str
    has_passed: bool
    value: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The gate's answer for one challenger.

    `promote`: it takes Production. `keep`: the champion stays. `insufficient_evidence`: too few rows, the champion
    stays. `refuse`: a check that every version must pass failed.

    `approver` is the role that has to approve before a version that may take Production does; None where the gate
    decides alone.
    """

    model: str
    version: int
    champion_version: int | None
    outcome: VerdictOutcome
    reason: str
    checks: tuple[Check, ...]
    approver: str | None = None


def store_verdict(connection: Connection, verdict: Verdict, training_id: uuid.UUID | None) -> uuid.UUID:
    """Store the verdict; returns its id."""
    verdict_id = uuid.uuid4()
    connection.execute(
        insert(verdicts).values(
            id=verdict_id,
            model=verdict.model,
            version=verdict.version,
            champion_version=verdict.champion_version,
            training_id=training_id,
            outcome=verdict.outcome,
            reason=verdict.reason,
            checks=[asdict(check) for check in verdict.checks],
            approver=verdict.approver,
        )
    )
    return verdict_id


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict with its id and time (UTC)."""

    id: uuid.UUID
    decided_at: datetime
    verdict: Verdict


def _build(row: Row[tuple[object, ...]]) -> Verdict:
    return Verdict(
        model=row.model,
        version=row.version,
        champion_version=row.champion_version,
        outcome=row.outcome,
        reason=row.reason,
        checks=tuple(Check(**check) for check in row.checks),
        approver=row.approver,
    )


def find_verdict(connection: Connection, verdict_id: uuid.UUID) -> Verdict | None:
    """The verdict with that id."""
    row = connection.execute(select(verdicts).where(verdicts.c.id == verdict_id)).first()
    return None if row is None else _build(row)


def get_verdict(connection: Connection, verdict_id: uuid.UUID) -> Verdict:
    """The verdict of that id, which another row names."""
    return _build(connection.execute(select(verdicts).where(verdicts.c.id == verdict_id)).one())


def load_verdicts_by_id(connection: Connection, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, StoredVerdict]:
    """The verdicts of those ids."""
    statement = select(verdicts).where(verdicts.c.id.in_(ids))
    return {row.id: StoredVerdict(row.id, row.decided_at, _build(row)) for row in connection.execute(statement)}


def load_verdicts(connection: Connection, model: str, limit: int = 50) -> list[StoredVerdict]:
    """The model's verdicts, newest first."""
    statement = select(verdicts).where(verdicts.c.model == model).order_by(verdicts.c.decided_at.desc()).limit(limit)
    return [StoredVerdict(row.id, row.decided_at, _build(row)) for row in connection.execute(statement)]


def find_last_verdict(connection: Connection, model: str, version: int) -> StoredVerdict | None:
    """The gate's last verdict on that version of the model."""
    statement = (
        select(verdicts)
        .where(verdicts.c.model == model, verdicts.c.version == version)
        .order_by(verdicts.c.decided_at.desc())
        .limit(1)
    )
    row = connection.execute(statement).first()
    return None if row is None else StoredVerdict(row.id, row.decided_at, _build(row))


def load_passed_versions(connection: Connection, model: str) -> list[int]:
    """Versions that passed the gate, newest first; what target `latest` chooses from.

    One that a role has to approve counts once it took Production, and one that was rolled back from no longer does,
    until it takes Production again.
    """
    return list(connection.scalars(build_passed_versions(model).order_by(verdicts.c.version.desc())))


def build_passed_versions(model: str, at: datetime | None = None) -> Select[tuple[int]]:
    """The query for what `load_passed_versions` answers, or for what it would have answered at that time."""
    own = (transitions.c.model == model) & (transitions.c.state == "finished")
    passed = (verdicts.c.model == model) & (verdicts.c.outcome == "promote")
    if at is not None:
        own &= transitions.c.finished_at <= at
        passed &= verdicts.c.decided_at <= at
    taken = func.max(transitions.c.id).filter(transitions.c.to_stage == PRODUCTION_STAGE)
    took = select(taken).where(own, transitions.c.version == verdicts.c.version).correlate(verdicts).scalar_subquery()
    was_rolled_back = (
        select(transitions.c.id)
        .where(own, transitions.c.cause == "rollback", transitions.c.previous_version == verdicts.c.version)
        .where(transitions.c.id > func.coalesce(took, 0))
        .correlate(verdicts)
        .exists()
    )
    may_serve = (verdicts.c.approver.is_(None) | took.is_not(None)) & ~was_rolled_back
    return select(verdicts.c.version).where(passed, may_serve).distinct()


def load_outcomes(connection: Connection, model: str) -> dict[int, VerdictOutcome]:
    """The gate's last outcome for each version of the model that it saw."""
    statement = (
        select(verdicts.c.version, verdicts.c.outcome).where(verdicts.c.model == model).order_by(verdicts.c.decided_at)
    )
    # The later outcome of a version replaces the earlier.
    return {row.version: row.outcome for row in connection.execute(statement)}
