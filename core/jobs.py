"""Jobs: all work that workers do for a model, in one view, whatever table it is kept in.

A job's id is that of the training, the check or the pull that it carries out: there is no second number. Housekeeping
(reconciling, schedules, partitions, looking into the watched folder) runs every few seconds and is no job to follow.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Select,
    Text,
    Uuid,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
    update,
)

from core.job_errors import JobHasEnded, JobNotFound, JobNotRepeatable, JobNotStoppable
from core.job_queue import drop_queued
from core.tables.data import pulls
from core.tables.monitoring import checks
from core.tables.trainings import trainings
from core.trainings import OPEN_STATES, Training, TrainingState, cancel_training, repeat_training

JobKind = Literal["training", "check", "pull"]
JobState = TrainingState
JOB_KINDS: tuple[JobKind, ...] = get_args(JobKind)
JOB_STATES: tuple[JobState, ...] = get_args(JobState)


@dataclass(frozen=True)
class Job:
    """One piece of work; `progress` runs from 0 to 1, `attempts` says how often it was begun.

    `result` names what it made: of a training the MLflow run, version, verdict and snapshot, of a check the finding,
    of a pull its source and what became of it. `worker` is the host and process that has it, or had it last.
    """

    id: uuid.UUID
    kind: JobKind
    model: str
    state: JobState
    step: str
    progress: float
    actor: str
    attempts: int
    worker: str | None
    result: Mapping[str, object]
    error: str | None
    repeats_id: uuid.UUID | None
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


def load_jobs(
    connection: Connection,
    *,
    model: str | None = None,
    state: JobState | None = None,
    kind: JobKind | None = None,
    limit: int = 50,
) -> list[Job]:
    """The most recent jobs, the newest request first."""
    parts = []
    for name, every in _SELECTS.items():
        if kind not in (None, name):
            continue
        columns = every.selected_columns
        wanted = [columns[field] == value for field, value in (("model", model), ("state", state)) if value is not None]
        # Limited before they are joined, so that each table is read by its index.
        newest = every.where(*wanted).order_by(columns.requested_at.desc()).limit(limit).subquery()
        parts.append(select(newest))
    merged = union_all(*parts).subquery()
    statement = select(merged).order_by(merged.c.requested_at.desc()).limit(limit)
    return [Job(**row._mapping) for row in connection.execute(statement)]


def get_job(connection: Connection, job_id: uuid.UUID) -> Job:
    """The job with that id; raises JobNotFound."""
    statement = union_all(*(part.where(part.selected_columns.id == job_id) for part in _SELECTS.values()))
    row = connection.execute(statement).first()
    if row is None:
        raise JobNotFound(str(job_id))
    return Job(**row._mapping)


def cancel_job(connection: Connection, job_id: uuid.UUID, *, actor: str) -> Job:
    """End the job as cancelled in the caller's transaction; returns it as it then is.

    One that runs is stopped by its worker within seconds; what it does until then changes nothing. A job that is
    cancelled already stays as it is. Raises JobNotFound, JobHasEnded, JobNotStoppable.
    """
    job = get_job(connection, job_id)
    if job.kind == "training":
        cancel_training(connection, job_id, actor=actor)
    else:
        _cancel_row(connection, job, actor)
    return get_job(connection, job_id)


def _cancel_row(connection: Connection, job: Job, actor: str) -> None:
    table = checks if job.kind == "check" else pulls
    held = select(table.c.state, table.c.job_id).where(table.c.id == job.id).with_for_update()
    row = connection.execute(held).one()
    if row.state == "cancelled":
        return
    if row.state not in OPEN_STATES:
        raise JobHasEnded(str(job.id), job.state)
    if row.state == "running" and job.kind == "pull":
        raise JobNotStoppable(str(job.id), job.kind)
    reason = "error" if job.kind == "check" else "reason"
    ended = {"state": "cancelled", reason: f"cancelled by {actor}", "finished_at": func.now()}
    connection.execute(update(table).where(table.c.id == job.id).values(ended))
    if row.job_id is not None:
        drop_queued(connection, row.job_id)


def retry_job(connection: Connection, job_id: uuid.UUID, *, actor: str) -> tuple[Training, bool]:
    """Repeat a failed or cancelled training from its snapshot; returns the new one and whether it is new.

    Raises JobNotFound, JobNotRepeatable, AnotherTrainingOpen.
    """
    job = get_job(connection, job_id)
    if job.kind != "training":
        raise JobNotRepeatable(str(job_id), job.kind, job.state)
    return repeat_training(connection, job_id, actor=actor)


# --- the three tables as one -------------------------------------------------------------------------------------


def _name_results(**columns: ColumnElement[Any]) -> ColumnElement[Any]:
    """A JSON object of the columns that hold something."""
    pairs: list[ColumnElement[Any]] = []
    for name, column in columns.items():
        pairs += [literal(name, Text), column]
    return func.jsonb_strip_nulls(func.jsonb_build_object(*pairs))


def _select_trainings() -> Select[Any]:
    table = trainings.c
    return select(
        table.id,
        literal("training", Text).label("kind"),
        table.model,
        table.state,
        table.step,
        table.progress,
        table.actor,
        table.attempt.label("attempts"),
        table.worker,
        _name_results(
            run_id=table.run_id,
            version=table.version,
            verdict_id=table.verdict_id,
            snapshot_digest=table.snapshot_digest,
        ).label("result"),
        table.error,
        table.repeats_id,
        table.requested_at,
        table.started_at,
        table.finished_at,
    )


def _select_checks() -> Select[Any]:
    table = checks.c
    return select(
        table.id,
        literal("check", Text).label("kind"),
        table.model,
        table.state,
        table.state.label("step"),
        cast(case((table.state == "finished", 1.0), else_=0.0), Double).label("progress"),
        table.actor,
        table.attempt.label("attempts"),
        table.worker,
        _name_results(finding_id=table.finding_id).label("result"),
        table.error,
        cast(null(), Uuid).label("repeats_id"),
        table.requested_at,
        table.started_at,
        table.finished_at,
    )


def _select_pulls() -> Select[Any]:
    table = pulls.c
    is_done = table.state.in_(("imported", "unchanged"))
    state = case((is_done, "finished"), (table.state == "rejected", "failed"), else_=table.state)
    outcome = case((table.state.in_((*OPEN_STATES, "cancelled")), null()), else_=table.state)
    chosen = select(
        table.id,
        literal("pull", Text).label("kind"),
        table.model,
        cast(state, Text).label("state"),
        table.state.label("step"),
        cast(case((is_done, 1.0), else_=0.0), Double).label("progress"),
        table.actor,
        table.attempt.label("attempts"),
        table.worker,
        _name_results(source=table.source, source_id=table.source_id, outcome=outcome).label("result"),
        table.reason.label("error"),
        cast(null(), Uuid).label("repeats_id"),
        table.requested_at,
        table.started_at,
        table.finished_at,
    ).subquery()
    return select(chosen)


_SELECTS: Mapping[JobKind, Select[Any]] = {
    "training": _select_trainings(),
    "check": _select_checks(),
    "pull": _select_pulls(),
}
