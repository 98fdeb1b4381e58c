"""Trainings: one request to train, from whatever cause, through to its verdict.

At most one training of a model is queued or running (partial unique index). Every attempt to carry one out takes the
next fencing number; an attempt that finds a higher one stops before it registers, gates or moves a stage.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Engine, Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from core.errors import AttemptSuperseded, TrainingNotFound
from core.job_queue import enqueue
from core.tables import trainings

TrainingState = Literal["queued", "running", "finished", "failed", "cancelled"]
Cause = Literal["hand", "startup", "finding", "schedule", "upload", "project"]
OPEN_STATES = ("queued", "running")
_WAITS = "waits"
CONTINUE = "continue"
"""A training's parameter that is not the model's: 1 continues the champion's weights, 0 trains anew."""
VERSION_NAME = "version_name"
"""A training's parameter that is not the model's: the name of the version that it will make."""


@dataclass(frozen=True)
class Training:
    """One row of table `trainings`; `progress` runs from 0 to 1, `parameters` override the workload's defaults."""

    id: uuid.UUID
    model: str
    state: TrainingState
    cause: Cause
    actor: str
    parameters: Mapping[str, object]
    finding_id: uuid.UUID | None
    snapshot_digest: str | None
    attempt: int
    step: str
    progress: float
    run_id: str | None
    version: int | None
    verdict_id: uuid.UUID | None
    error: str | None
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def is_waiting(self) -> bool:
        """Whether its last attempt ended because something was away."""
        return self.step.startswith(_WAITS)


_COLUMNS = [trainings.c[name] for name in Training.__dataclass_fields__]


def _build(row: Row[tuple[object, ...]]) -> Training:
    return Training(**row._mapping)


def request_training(
    connection: Connection,
    model: str,
    *,
    cause: Cause,
    actor: str,
    parameters: Mapping[str, object] | None = None,
    finding_id: uuid.UUID | None = None,
    snapshot_digest: str | None = None,
    is_enqueued: bool = True,
) -> tuple[Training, bool]:
    """Ask for a training of the model in the caller's transaction; returns it and whether it is new.

    While one is queued or running that one is returned. A new one is enqueued in the same transaction, unless
    `is_enqueued` is false because the caller carries it out itself.
    """
    training_id = uuid.uuid4()
    statement = (
        insert(trainings)
        .values(
            id=training_id,
            model=model,
            state="queued",
            cause=cause,
            actor=actor,
            parameters=dict(parameters or {}),
            finding_id=finding_id,
            snapshot_digest=snapshot_digest,
        )
        .on_conflict_do_nothing(index_elements=["model"], index_where=trainings.c.state.in_(OPEN_STATES))
        .returning(trainings.c.id)
    )
    # The open one may finish between the two statements; then the next turn inserts.
    while connection.execute(statement).first() is None:
        existing = find_open_training(connection, model)
        if existing is not None:
            return existing, False
    if is_enqueued:
        job_id = enqueue(connection, "train", training_id=str(training_id))
        connection.execute(update(trainings).where(trainings.c.id == training_id).values(job_id=job_id))
    return get_training(connection, training_id), True


def find_open_training(connection: Connection, model: str) -> Training | None:
    """The queued or running training of the model."""
    row = connection.execute(
        select(*_COLUMNS).where(trainings.c.model == model, trainings.c.state.in_(OPEN_STATES))
    ).first()
    return None if row is None else _build(row)


def get_training(connection: Connection, training_id: uuid.UUID) -> Training:
    """The training with that id; raises TrainingNotFound."""
    row = connection.execute(select(*_COLUMNS).where(trainings.c.id == training_id)).first()
    if row is None:
        raise TrainingNotFound(str(training_id))
    return _build(row)


def load_trainings(connection: Connection, model: str | None = None, limit: int = 50) -> list[Training]:
    """The most recent trainings, newest first."""
    statement = select(*_COLUMNS).order_by(trainings.c.requested_at.desc()).limit(limit)
    if model is not None:
        statement = statement.where(trainings.c.model == model)
    return [_build(row) for row in connection.execute(statement)]


def start_attempt(connection: Connection, training_id: uuid.UUID) -> Training:
    """Take the next fencing number and mark the training as running; returns it as it then is."""
    row = connection.execute(
        update(trainings)
        .where(trainings.c.id == training_id, trainings.c.state.in_(OPEN_STATES))
        .values(
            state="running",
            attempt=trainings.c.attempt + 1,
            started_at=func.coalesce(trainings.c.started_at, func.now()),
            step="started",
            progress=0.0,
        )
        .returning(*_COLUMNS)
    ).first()
    return get_training(connection, training_id) if row is None else _build(row)


def hold_attempt(connection: Connection, training_id: uuid.UUID, attempt: int) -> None:
    """Lock the training for this transaction, if `attempt` still owns it; raises AttemptSuperseded."""
    row = connection.execute(
        select(trainings.c.attempt, trainings.c.state).where(trainings.c.id == training_id).with_for_update()
    ).first()
    if row is None:
        raise TrainingNotFound(str(training_id))
    if row.attempt != attempt or row.state not in OPEN_STATES:
        raise AttemptSuperseded(str(training_id), attempt, row.attempt)


def record_step(
    connection: Connection, training_id: uuid.UUID, attempt: int, *, step: str, progress: float, **values: object
) -> None:
    """Note where this attempt is, and with `values` what it made (run_id, snapshot_digest, version, verdict_id)."""
    hold_attempt(connection, training_id, attempt)
    connection.execute(
        update(trainings).where(trainings.c.id == training_id).values(step=step, progress=progress, **values)
    )


def note_waiting(connection: Connection, training_id: uuid.UUID, reason: str) -> None:
    """Say what an open training waits for before its next attempt."""
    is_open = (trainings.c.id == training_id) & trainings.c.state.in_(OPEN_STATES)
    connection.execute(update(trainings).where(is_open).values(step=f"{_WAITS}: {reason}"))


def finish_training(connection: Connection, training_id: uuid.UUID, attempt: int, **values: object) -> None:
    """End this attempt's training as finished; a version that the gate did not promote is a finished training too."""
    hold_attempt(connection, training_id, attempt)
    connection.execute(
        update(trainings)
        .where(trainings.c.id == training_id)
        .values(state="finished", step="finished", progress=1.0, error=None, finished_at=func.now(), **values)
    )


def fail_training(connection: Connection, training_id: uuid.UUID, attempt: int, error: str) -> None:
    """End this attempt's training as failed, with its reason; raises AttemptSuperseded if it is not this attempt's."""
    hold_attempt(connection, training_id, attempt)
    connection.execute(
        update(trainings)
        .where(trainings.c.id == training_id)
        .values(state="failed", error=error, finished_at=func.now())
    )


@contextmanager
def hold_alive(engine: Engine, training_id: uuid.UUID) -> Iterator[None]:
    """Show for the length of the block that this process carries out a training that no worker watches."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), _alive(training_id))
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), _alive(training_id))


def fail_abandoned_trainings(engine: Engine) -> list[Training]:
    """End as failed the trainings without a job whose process is gone; returns them."""
    failed = []
    statement = select(trainings.c.id).where(
        trainings.c.state.in_(OPEN_STATES),
        trainings.c.job_id.is_(None),
        trainings.c.requested_at < func.now() - text("interval '30 seconds'"),
    )
    with engine.begin() as connection:
        for training_id in connection.scalars(statement).all():
            is_gone = connection.scalar(
                text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))"), _alive(training_id)
            )
            training = get_training(connection, training_id)
            # It may have ended by itself between the two statements.
            if is_gone and training.is_open:
                fail_training(connection, training_id, training.attempt, "its process ended without a verdict")
                failed.append(training)
    return failed


def _alive(training_id: uuid.UUID) -> dict[str, str]:
    return {"name": f"training:{training_id}"}
