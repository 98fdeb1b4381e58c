"""The gate's verdicts, stored check by check."""

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.postgresql import insert

from core.tables import verdicts

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
    """

    model: str
    version: int
    champion_version: int | None
    outcome: VerdictOutcome
    reason: str
    checks: tuple[Check, ...]


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
    )


def find_verdict(connection: Connection, verdict_id: uuid.UUID) -> Verdict | None:
    """The verdict with that id."""
    row = connection.execute(select(verdicts).where(verdicts.c.id == verdict_id)).first()
    return None if row is None else _build(row)


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
    """Versions that passed the gate, newest first; what target `latest` chooses from."""
    statement = (
        select(verdicts.c.version)
        .where(verdicts.c.model == model, verdicts.c.outcome == "promote")
        .distinct()
        .order_by(verdicts.c.version.desc())
    )
    return list(connection.scalars(statement))


def load_outcomes(connection: Connection, model: str) -> dict[int, VerdictOutcome]:
    """The gate's last outcome for each version of the model that it saw."""
    statement = (
        select(verdicts.c.version, verdicts.c.outcome).where(verdicts.c.model == model).order_by(verdicts.c.decided_at)
    )
    # The later outcome of a version replaces the earlier.
    return {row.version: row.outcome for row in connection.execute(statement)}
