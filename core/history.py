"""History: what every transition was decided on, and which version served at a time.

Transitions and targets of a model are in the order of their numbers. Where a time is asked for, the highest number
counts that has a time up to then, so that times that tie, or a clock that was set back, contradict nothing.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Integer, case, cast, func, literal, select, true

from core.errors import ParameterRejected
from core.registry import PRODUCTION_STAGE
from core.tables.monitoring import findings
from core.tables.trainings import trainings
from core.tables.versions import target_changes, transitions, verdicts, version_names
from core.targets import LATEST, PRODUCTION
from core.transitions import Transition, moves_production
from core.verdicts import StoredVerdict, build_passed_versions, load_verdicts_by_id


@dataclass(frozen=True)
class Evidence:
    """What a transition was decided on: the gate's verdict, the training that made the version, and the finding that
    the training, or the rollback, followed from."""

    verdict: StoredVerdict | None = None
    training_id: uuid.UUID | None = None
    training_cause: str | None = None
    run_id: str | None = None
    finding_id: uuid.UUID | None = None
    finding_reasons: Sequence[str] = ()


@dataclass(frozen=True)
class ServedAt:
    """What was to serve a model at a time (UTC); serving follows within two seconds.

    `version` is what `target` meant then, None if it meant nothing; `transition` is what brought `production` there,
    or took it away.
    """

    model: str
    at: datetime
    version: int | None
    target: str
    target_set_by: str | None
    target_set_at: datetime | None
    production: int | None
    transition: Transition | None


def load_evidence(connection: Connection, history: Sequence[Transition]) -> Mapping[int, Evidence]:
    """What each of the transitions was decided on, by its number."""
    stored = load_verdicts_by_id(connection, {one.verdict_id for one in history if one.verdict_id})
    joined = (
        select(verdicts.c.id, trainings.c.id.label("training_id"), trainings.c.cause, trainings.c.run_id)
        .add_columns(trainings.c.finding_id)
        .join(trainings, trainings.c.id == verdicts.c.training_id)
        .where(verdicts.c.id.in_(stored))
    )
    made = {row.id: row for row in connection.execute(joined)}
    behind = {one.id: one.finding_id or getattr(made.get(one.verdict_id), "finding_id", None) for one in history}
    found = select(findings.c.id, findings.c.reasons).where(findings.c.id.in_({one for one in behind.values() if one}))
    reasons = {row.id: tuple(row.reasons) for row in connection.execute(found)}
    evidence = {}
    for one in history:
        training = made.get(one.verdict_id)
        evidence[one.id] = Evidence(
            verdict=stored.get(one.verdict_id) if one.verdict_id else None,
            training_id=None if training is None else training.training_id,
            training_cause=None if training is None else training.cause,
            run_id=None if training is None else training.run_id,
            finding_id=behind[one.id],
            finding_reasons=reasons.get(behind[one.id], ()),
        )
    return evidence


def load_served_at(connection: Connection, model: str, at: datetime, now: datetime | None = None) -> ServedAt:
    """What was to serve the model at that time, by one query; a time without a zone is UTC.

    Raises ParameterRejected for a time that is still to come.
    """
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at > (now or datetime.now(UTC)):
        raise ParameterRejected("at", at.isoformat(), "it lies ahead; a time up to now is expected")
    moved = (
        select(*(transitions.c[name] for name in Transition.__dataclass_fields__))
        .where(transitions.c.model == model, moves_production(), transitions.c.finished_at <= at)
        .order_by(transitions.c.id.desc())
        .limit(1)
        .subquery("moved")
    )
    chosen = (
        select(target_changes.c.target, target_changes.c.set_by, target_changes.c.set_at)
        .where(target_changes.c.model == model, target_changes.c.set_at <= at)
        .order_by(target_changes.c.id.desc())
        .limit(1)
        .subquery("chosen")
    )
    target = func.coalesce(chosen.c.target, PRODUCTION)
    production = case((moved.c.to_stage == PRODUCTION_STAGE, moved.c.version))
    passed = build_passed_versions(model, at).subquery("passed")
    named = select(version_names.c.version).where(version_names.c.model == model, version_names.c.name == target)
    version = case(
        (target == PRODUCTION, production),
        (target == LATEST, select(func.max(passed.c.version)).scalar_subquery()),
        (target.regexp_match("^[1-9][0-9]{0,6}$"), cast(target, Integer)),
        else_=named.scalar_subquery(),
    )
    always = select(literal(1)).subquery("always")
    statement = select(
        version.label("served_version"),
        target.label("served_target"),
        chosen.c.set_by,
        chosen.c.set_at,
        production.label("production"),
        *moved.c,
    ).select_from(always.outerjoin(moved, true()).outerjoin(chosen, true()))
    row = connection.execute(statement).one()._mapping
    transition = {name: row[moved.c[name]] for name in Transition.__dataclass_fields__}
    return ServedAt(
        model=model,
        at=at,
        version=row["served_version"],
        target=row["served_target"],
        target_set_by=row["set_by"],
        target_set_at=row["set_at"],
        production=row["production"],
        transition=None if transition["id"] is None else Transition(**transition),
    )
