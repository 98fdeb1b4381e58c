"""Trainings: one request to train, from whatever cause, through to its verdict.

At most one training of a model is queued or running (partial unique index). Every attempt to carry one out takes the
next fencing number; an attempt that finds a higher one stops before it registers, gates or moves a stage.
"""

import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Engine, Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from core.alerts import clear_alert, raise_alert
from core.errors import AttemptSuperseded, TrainingNotFound
from core.job_errors import AnotherTrainingOpen, CancelledTooLate, JobHasEnded, JobNotRepeatable, TrainingEnded
from core.job_queue import drop_queued, enqueue, name_worker
from core.tables.trainings import trainings
from core.transitions import has_begun_transition

TrainingState = Literal["queued", "running", "finished", "failed", "cancelled"]
Cause = Literal["hand", "startup", "finding", "schedule", "upload", "project"]
OPEN_STATES = ("queued", "running")
_WAITS = "waits"
CONTINUE = "continue"
"""A training's parameter that is not the model's: 1 continues the champion's weights, 0 trains anew."""
WHERE_POSSIBLE = "where_possible"
"""A value of CONTINUE: continue the champion's weights, and train anew where there are none that fit."""
VERSION_NAME = "version_name"
"""A training's parameter that is not the model's: the name of the version that it will make."""
_FAILURE = "training"
"""Cause of the alert that a training failed."""


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
    source_id: uuid.UUID | None
    snapshot_digest: str | None
    attempt: int
    step: str
    progress: float
    run_id: str | None
    version: int | None
    verdict_id: uuid.UUID | None
    error: str | None
    repeats_id: uuid.UUID | None
    worker: str | None
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


# With bound values PostgreSQL no longer finds the index once the driver has prepared the statement.
_IS_OPEN = text("state IN ('queued', 'running')")

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
    source_id: uuid.UUID | None = None,
    snapshot_digest: str | None = None,
    run_id: str | None = None,
    repeats_id: uuid.UUID | None = None,
    is_enqueued: bool = True,
) -> tuple[Training, bool]:
    """Ask for a training of the model in the caller's transaction; returns it and whether it is new.

    While one is queued or running that one is returned. A new one is enqueued in the same transaction, unless
    `is_enqueued` is false because the caller carries it out itself. `run_id` is a run of MLflow that is to be the
    training's own.
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
            source_id=source_id,
            run_id=run_id,
            snapshot_digest=snapshot_digest,
            repeats_id=repeats_id,
        )
        .on_conflict_do_nothing(index_elements=["model"], index_where=_IS_OPEN)
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


def repeat_training(connection: Connection, training_id: uuid.UUID, *, actor: str) -> tuple[Training, bool]:
    """Ask for a failed or cancelled training again, from its snapshot; returns the new one and whether it is new.

    Asked for twice it is repeated once, as long as the repetition is open. Raises TrainingNotFound, JobNotRepeatable,
    AnotherTrainingOpen.
    """
    earlier = get_training(connection, training_id)
    if earlier.state not in ("failed", "cancelled"):
        raise JobNotRepeatable(str(training_id), "training", earlier.state)
    training, is_new = request_training(
        connection,
        earlier.model,
        cause="hand",
        actor=actor,
        parameters=earlier.parameters,
        finding_id=earlier.finding_id,
        snapshot_digest=earlier.snapshot_digest,
        repeats_id=earlier.id,
    )
    if training.repeats_id != earlier.id:
        raise AnotherTrainingOpen(earlier.model, str(training.id), training.state)
    return training, is_new


def cancel_training(connection: Connection, training_id: uuid.UUID, *, actor: str) -> None:
    """End the training as cancelled; one that is cancelled already stays as it is.

    From the commit on no attempt at it can register, gate or move a stage; who carries it out sees that and stops. It
    is too late once its version is being moved to Production: the training is then about to finish. Raises
    TrainingNotFound, JobHasEnded, CancelledTooLate.
    """
    row = connection.execute(
        select(trainings.c.state, trainings.c.attempt, trainings.c.job_id, trainings.c.verdict_id)
        .where(trainings.c.id == training_id)
        .with_for_update()
    ).first()
    if row is None:
        raise TrainingNotFound(str(training_id))
    if row.state == "cancelled":
        return
    if row.state not in OPEN_STATES:
        raise JobHasEnded(str(training_id), row.state)
    if row.verdict_id is not None and has_begun_transition(connection, row.verdict_id):
        raise CancelledTooLate(str(training_id))
    connection.execute(
        update(trainings)
        .where(trainings.c.id == training_id)
        .values(state="cancelled", error=f"cancelled by {actor}", finished_at=func.now())
    )
    if row.job_id is not None and drop_queued(connection, row.job_id) and row.attempt == 0:
        mark_settled(connection, training_id)


def mark_settled(connection: Connection, training_id: uuid.UUID) -> None:
    """Note that the ended training left nothing half done in MLflow."""
    connection.execute(update(trainings).where(trainings.c.id == training_id).values(settled_at=func.now()))


def find_open_training(connection: Connection, model: str) -> Training | None:
    """The queued or running training of the model."""
    row = connection.execute(
        select(*_COLUMNS).where(trainings.c.model == model, trainings.c.state.in_(OPEN_STATES))
    ).first()
    return None if row is None else _build(row)


def find_whether_included(connection: Connection, training_id: uuid.UUID) -> bool | None:
    """Whether the training's snapshot will have the rows that the caller's transaction stored; None if that is open.

    A queued training waits with its snapshot until this transaction has ended.
    """
    statement = select(trainings.c.state, trainings.c.snapshot_digest).where(trainings.c.id == training_id)
    row = connection.execute(statement.with_for_update(read=True)).one()
    if row.snapshot_digest is not None or row.state not in OPEN_STATES:
        return False
    return True if row.state == "queued" else None


def load_open_ids(connection: Connection, training_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Which of the trainings are still queued or running."""
    is_open = trainings.c.id.in_(training_ids) & trainings.c.state.in_(OPEN_STATES)
    return set(connection.scalars(select(trainings.c.id).where(is_open)))


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
            worker=name_worker(),
            step="started",
            progress=0.0,
        )
        .returning(*_COLUMNS)
    ).first()
    return get_training(connection, training_id) if row is None else _build(row)


def hold_attempt(connection: Connection, training_id: uuid.UUID, attempt: int) -> None:
    """Lock the training for this transaction, if `attempt` still owns it.

    Raises AttemptSuperseded where a newer attempt does, TrainingEnded where it was ended meanwhile.
    """
    row = connection.execute(
        select(trainings.c.attempt, trainings.c.state).where(trainings.c.id == training_id).with_for_update()
    ).first()
    if row is None:
        raise TrainingNotFound(str(training_id))
    if row.attempt != attempt:
        raise AttemptSuperseded(str(training_id), attempt, row.attempt)
    if row.state not in OPEN_STATES:
        raise TrainingEnded(str(training_id), row.state)


def is_training_owned(connection: Connection, training_id: uuid.UUID, attempt: int) -> bool:
    """Whether this attempt at the training is the newest, and was not cancelled.

    One that has just finished or failed still owns it: it has its own run to end.
    """
    owned = select(trainings.c.id).where(
        trainings.c.id == training_id, trainings.c.state != "cancelled", trainings.c.attempt == attempt
    )
    return connection.execute(owned).first() is not None


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
    """End this attempt's training as finished, and the alert that one failed before it.

    A version that the gate did not promote is a finished training too. Raises what `hold_attempt` does.
    """
    hold_attempt(connection, training_id, attempt)
    model = connection.execute(
        update(trainings)
        .where(trainings.c.id == training_id)
        .values(state="finished", step="finished", progress=1.0, error=None, finished_at=func.now(), **values)
        .returning(trainings.c.model)
    ).scalar_one()
    clear_alert(connection, model, _FAILURE, f"training {training_id} finished")


def fail_training(connection: Connection, training_id: uuid.UUID, attempt: int, error: str) -> None:
    """End this attempt's training as failed, with its reason, and raise the alert of it in the same transaction.

    Raises what `hold_attempt` does.
    """
    hold_attempt(connection, training_id, attempt)
    model = connection.execute(
        update(trainings)
        .where(trainings.c.id == training_id)
        .values(state="failed", error=error, finished_at=func.now())
        .returning(trainings.c.model)
    ).scalar_one()
    raise_alert(connection, model, _FAILURE, "warning", "A training failed", [f"training {training_id}: {error}"])


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


def find_unwatched(connection: Connection) -> list[Training]:
    """The trainings without a job that have ended, are not settled, and whose process is gone."""
    statement = select(*_COLUMNS).where(
        trainings.c.state.not_in(OPEN_STATES), trainings.c.settled_at.is_(None), trainings.c.job_id.is_(None)
    )
    ended = [_build(row) for row in connection.execute(statement).all()]
    free = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
    return [training for training in ended if connection.scalar(free, _alive(training.id))]


def _alive(training_id: uuid.UUID) -> dict[str, str]:
    return {"name": f"training:{training_id}"}
