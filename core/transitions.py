"""The record of transitions: every change of stage, from its intent to its end.

A model's transitions are written under its lock, one after another, so their numbers are their order; clocks decide
nothing.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from core.registry import PRODUCTION_STAGE, STAGING_STAGE
from core.tables.versions import transitions, verdicts

TransitionState = Literal["intended", "finished", "undone"]
TransitionOrigin = Literal["platform", "external"]
TransitionCause = Literal["gate", "hand", "override", "rollback", "approval", "rejection", "superseded", "external"]


@dataclass(frozen=True)
class Transition:
    """One row of table `transitions`; `previous_version` was in Production before it. Times are UTC.

    `verdict_id` and `finding_id` are what it was decided on.

    Stages are MLflow's words; beside them `unknown` (MLflow keeps no history of where a version came from) and
    `Deleted`.
    """

    id: int
    model: str
    version: int
    from_stage: str
    to_stage: str
    previous_version: int | None
    state: TransitionState
    origin: TransitionOrigin
    actor: str
    cause: TransitionCause
    reason: str
    verdict_id: uuid.UUID | None
    intended_at: datetime
    finished_at: datetime | None
    finding_id: uuid.UUID | None = None


_COLUMNS = [transitions.c[name] for name in Transition.__dataclass_fields__]


def _build(row: Row[tuple[object, ...]]) -> Transition:
    return Transition(**row._mapping)


def moves_production() -> ColumnElement[bool]:
    """The condition that a transition brought a version to Production, or took one out, and is finished."""
    is_about = (transitions.c.to_stage == PRODUCTION_STAGE) | (transitions.c.from_stage == PRODUCTION_STAGE)
    return (transitions.c.state == "finished") & is_about


def store_transition(
    connection: Connection,
    *,
    model: str,
    version: int,
    from_stage: str,
    to_stage: str,
    previous_version: int | None,
    state: TransitionState,
    origin: TransitionOrigin,
    actor: str,
    cause: TransitionCause,
    reason: str,
    verdict_id: uuid.UUID | None = None,
    finding_id: uuid.UUID | None = None,
) -> Transition:
    """Store a transition that is intended, or one that was found finished."""
    statement = (
        insert(transitions)
        .values(
            model=model,
            version=version,
            from_stage=from_stage,
            to_stage=to_stage,
            previous_version=previous_version,
            state=state,
            origin=origin,
            actor=actor,
            cause=cause,
            reason=reason,
            verdict_id=verdict_id,
            finding_id=finding_id,
            finished_at=None if state == "intended" else func.clock_timestamp(),
        )
        .returning(*_COLUMNS)
    )
    return _build(connection.execute(statement).one())


def end_transition(connection: Connection, transition_id: int, state: TransitionState) -> Transition:
    """End an intended transition as finished or undone."""
    statement = (
        update(transitions)
        .where(transitions.c.id == transition_id)
        .values(state=state, finished_at=func.clock_timestamp())
        .returning(*_COLUMNS)
    )
    return _build(connection.execute(statement).one())


def load_history(
    connection: Connection, model: str, limit: int | None = 100, *, before: int | None = None
) -> list[Transition]:
    """The model's transitions, newest first, from the one before `before` on; all of them if `limit` is None."""
    statement = select(*_COLUMNS).where(transitions.c.model == model).order_by(transitions.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(transitions.c.id < before)
    return [_build(row) for row in connection.execute(statement)]


def load_intended(connection: Connection, model: str | None = None) -> list[Transition]:
    """Transitions that were intended and neither finished nor undone, oldest first."""
    statement = select(*_COLUMNS).where(transitions.c.state == "intended").order_by(transitions.c.id)
    if model is not None:
        statement = statement.where(transitions.c.model == model)
    return [_build(row) for row in connection.execute(statement)]


def load_last_moves(connection: Connection) -> dict[str, Transition]:
    """The last transition of every model that brought a version to Production or took one out, finished."""
    statement = (
        select(*_COLUMNS)
        .where(moves_production())
        .ext(distinct_on(transitions.c.model))
        .order_by(transitions.c.model, transitions.c.id.desc())
    )
    found = [_build(row) for row in connection.execute(statement)]
    return {transition.model: transition for transition in found}


def find_last_move(connection: Connection, model: str) -> Transition | None:
    """The model's last transition that brought a version to Production or took one out, finished."""
    statement = (
        select(*_COLUMNS)
        .where(transitions.c.model == model, moves_production())
        .order_by(transitions.c.id.desc())
        .limit(1)
    )
    row = connection.execute(statement).first()
    return None if row is None else _build(row)


def load_waiting(connection: Connection, model: str | None = None) -> list[Transition]:
    """The transitions to Staging of the versions that wait there for an approval, oldest first."""
    later = transitions.alias("later")
    has_moved_on = (
        select(later.c.id)
        .where(later.c.model == transitions.c.model, later.c.version == transitions.c.version)
        .where(later.c.state == "finished", later.c.id > transitions.c.id)
        .exists()
    )
    statement = (
        select(*_COLUMNS)
        .join(verdicts, verdicts.c.id == transitions.c.verdict_id)
        .where(transitions.c.state == "finished", transitions.c.to_stage == STAGING_STAGE)
        .where(verdicts.c.approver.is_not(None), ~has_moved_on)
        .order_by(transitions.c.id)
    )
    if model is not None:
        statement = statement.where(transitions.c.model == model)
    return [_build(row) for row in connection.execute(statement)]


def has_finished_transition(connection: Connection, verdict_id: uuid.UUID) -> bool:
    """Whether a transition on this verdict came to its end, whatever happened after it."""
    statement = select(transitions.c.id).where(
        transitions.c.verdict_id == verdict_id, transitions.c.state == "finished"
    )
    return connection.execute(statement.limit(1)).first() is not None


def has_rolled_back(connection: Connection, finding_id: uuid.UUID) -> bool:
    """Whether a rollback on this finding came to its end, whatever happened after it."""
    statement = select(transitions.c.id).where(
        transitions.c.finding_id == finding_id, transitions.c.state == "finished"
    )
    return connection.execute(statement.limit(1)).first() is not None


def has_begun_transition(connection: Connection, verdict_id: uuid.UUID) -> bool:
    """Whether a transition on this verdict is under way or came to its end; one that was undone does not count."""
    statement = select(transitions.c.id).where(
        transitions.c.verdict_id == verdict_id, transitions.c.state.in_(("intended", "finished"))
    )
    return connection.execute(statement.limit(1)).first() is not None
