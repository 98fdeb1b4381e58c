"""Checks as jobs: one row for each request to check a model, through to its finding."""

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update

from core.job_queue import enqueue, name_worker
from core.tables.monitoring import checks

OPEN_STATES = ("queued", "running")


@dataclass(frozen=True)
class Check:
    """One requested check that a worker has begun."""

    id: uuid.UUID
    model: str
    attempt: int


def request_check(connection: Connection, model: str, *, actor: str) -> uuid.UUID:
    """Queue a check of the model in the caller's transaction; returns its id, which is its job's."""
    check_id = uuid.uuid4()
    job_id = enqueue(connection, "check", check_id=str(check_id))
    connection.execute(insert(checks).values(id=check_id, model=model, state="queued", actor=actor, job_id=job_id))
    return check_id


def start_check(connection: Connection, check_id: uuid.UUID) -> Check | None:
    """Begin the next attempt at the check; None where it has ended meanwhile."""
    row = connection.execute(
        update(checks)
        .where(checks.c.id == check_id, checks.c.state.in_(OPEN_STATES))
        .values(
            state="running",
            attempt=checks.c.attempt + 1,
            worker=name_worker(),
            started_at=func.coalesce(checks.c.started_at, func.now()),
        )
        .returning(checks.c.id, checks.c.model, checks.c.attempt)
    ).first()
    return None if row is None else Check(**row._mapping)


def is_check_owned(connection: Connection, check: Check) -> bool:
    """Whether the check is still to be carried out, by this attempt."""
    owned = select(checks.c.id).where(
        checks.c.id == check.id, checks.c.state.in_(OPEN_STATES), checks.c.attempt == check.attempt
    )
    return connection.execute(owned).first() is not None


def finish_check(connection: Connection, check_id: uuid.UUID, finding_id: uuid.UUID) -> None:
    """End the check with what it found; one that has ended stays as it is."""
    _end(connection, check_id, state="finished", finding_id=finding_id)


def fail_check(connection: Connection, check_id: uuid.UUID, error: str) -> None:
    """End the check without a finding, and say why; one that has ended stays as it is."""
    _end(connection, check_id, state="failed", error=error)


def _end(connection: Connection, check_id: uuid.UUID, **values: object) -> None:
    is_open = (checks.c.id == check_id) & checks.c.state.in_(OPEN_STATES)
    connection.execute(update(checks).where(is_open).values(finished_at=func.now(), **values))
