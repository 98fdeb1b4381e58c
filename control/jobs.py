"""Jobs over HTTP: what workers do, did and will do; follow one, cancel it, repeat it."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import Field
from sqlalchemy import Connection

from control.documents import Answer, describe_problems
from control.job_events import EventStream, Followers, stream_events
from control.requests import Actor, Limit, OpenConnections
from control.trainings import TrainingDocument
from core.job_lines import KEPT_LINES, load_last_lines
from core.jobs import Job, JobKind, JobState, cancel_job, get_job, load_jobs, retry_job
from core.names import check_name
from core.principals import Role
from web.principal import require

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=describe_problems())

_LARGEST_NUMBER = 2**63 - 1

JobId = Annotated[uuid.UUID, Path(description="Id of the job: that of its training, check or pull")]


class JobDocument(Answer):
    """One piece of work that a worker does for a model."""

    id: uuid.UUID = Field(description="That of the training, check or pull that it carries out")
    kind: JobKind
    model: str
    state: JobState
    step: str = Field(description="What it does now, or did last")
    progress: float = Field(ge=0, le=1, description="How far it is, from 0 to 1")
    actor: str = Field(description="Who or what asked for it")
    attempts: int = Field(description="How often it was begun")
    worker: str | None = Field(description="Host and process that has it, or had it last")
    result: Mapping[str, object] = Field(description="What it made, by name; empty at first")
    error: str | None = Field(description="Why it failed, or who cancelled it")
    repeats_id: uuid.UUID | None = Field(description="The failed or cancelled job that this one repeats")
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class LineDocument(Answer):
    """One line that the job wrote."""

    number: int = Field(description="Grows along a job, with gaps")
    attempt: int
    written_at: datetime
    text: str


class FollowedJob(JobDocument):
    """A job with the end of its log."""

    log: list[LineDocument] = Field(default_factory=list, description="Its last lines; secrets are masked")


@router.get("", summary="The most recent jobs", dependencies=[Depends(require(Role.VIEWER))])
def list_jobs(
    connections: OpenConnections,
    limit: Limit = 50,
    model: Annotated[str | None, Query(description="Only this model's")] = None,
    state: Annotated[JobState | None, Query(description="Only those in this state")] = None,
    kind: Annotated[JobKind | None, Query(description="Only those of this kind")] = None,
) -> list[JobDocument]:
    """List trainings, checks and pulls together, the newest request first."""
    if model is not None:
        check_name("model", model)
    with connections.engine.connect() as connection:
        found = load_jobs(connection, model=model, state=state, kind=kind, limit=limit)
    return [JobDocument.model_validate(job) for job in found]


@router.get(
    "/{job_id}",
    summary="One job with the end of its log",
    responses=describe_problems(404),
    dependencies=[Depends(require(Role.VIEWER))],
)
def show_job(
    job_id: JobId,
    connections: OpenConnections,
    lines: Annotated[int, Query(ge=0, le=KEPT_LINES, description="How many of its last lines")] = 100,
) -> FollowedJob:
    """Show where the job is, what it made or why it failed, and its last lines."""
    with connections.engine.connect() as connection:
        return _build_followed(connection, get_job(connection, job_id), lines)


def _build_followed(connection: Connection, job: Job, lines: int) -> FollowedJob:
    document = FollowedJob.model_validate(job)
    document.log = [LineDocument.model_validate(line) for line in load_last_lines(connection, job.id, lines)]
    return document


@router.get(
    "/{job_id}/events",
    summary="Follow a job as server-sent events",
    status_code=200,
    response_class=EventStream,
    responses=describe_problems(404),
    dependencies=[Depends(require(Role.VIEWER))],
)
async def follow_job(
    request: Request,
    job_id: JobId,
    connections: OpenConnections,
    last_event_id: Annotated[
        str | None, Header(description="Where an earlier stream was left: lines after this one follow")
    ] = None,
) -> EventStream:
    """Stream `state` (the job, whenever it changed), `line` (one of its log) and, when it has ended, `end`.

    The id of an event is the number of the last line: a client that comes back with it as `Last-Event-ID` misses no
    line that is still kept. A comment every 15 seconds shows that the stream lives; after an hour it ends, and the
    client comes back. A browser's `EventSource` does so by itself, and is to be closed on `end`.
    """
    followers: Followers = request.app.state.followers
    return await stream_events(connections, followers, job_id, _read_number(last_event_id))


def _read_number(given: str | None) -> int:
    """What a client says it has seen last; what is no number of ours means that it has seen nothing."""
    is_number = given is not None and given.isascii() and given.isdigit() and len(given) < 20
    return min(int(given), _LARGEST_NUMBER) if is_number and given is not None else 0


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a queued or running job",
    responses=describe_problems(403, 404, 409),
    dependencies=[Depends(require(Role.OPERATOR))],
)
def cancel(job_id: JobId, connections: OpenConnections, actor: Actor) -> JobDocument:
    """End the job as cancelled: at once where it is queued; a running one is stopped by its worker within seconds.

    From this answer on it registers no version and moves no stage. Cancelled twice it stays as it is.
    """
    with connections.engine.begin() as connection:
        return JobDocument.model_validate(cancel_job(connection, job_id, actor=actor))


@router.post(
    "/{job_id}/retry",
    status_code=202,
    summary="Repeat a failed or cancelled training",
    responses=describe_problems(403, 404, 409)
    | {
        200: {"model": TrainingDocument, "description": "It is repeated already, by this training"},
        202: {"description": "A new training is queued; Location says where to follow it"},
    },
    dependencies=[Depends(require(Role.OPERATOR))],
)
def retry(job_id: JobId, connections: OpenConnections, actor: Actor, response: Response) -> TrainingDocument:
    """Queue a new training with the snapshot and parameters of that one; its `repeats_id` names it."""
    with connections.engine.begin() as connection:
        training, is_new = retry_job(connection, job_id, actor=actor)
    response.status_code = 202 if is_new else 200
    response.headers["Location"] = f"/jobs/{training.id}"
    return TrainingDocument.model_validate(training)
