"""Commands for jobs: what workers do, did and will do; follow one, cancel it, repeat it."""

import time
import uuid
from typing import Annotated

import orjson
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli.actor import find_actor
from cli.output import JsonOption, console, errors, print_json, print_table
from cli.session import database_session
from core.connections import Connections
from core.errors import ParameterRejected
from core.job_lines import KEPT_LINES, JobLine, load_last_lines, load_lines_after
from core.job_queue import count_live_workers
from core.jobs import JOB_KINDS, JOB_STATES, Job, JobKind, JobState, cancel_job, get_job, load_jobs, retry_job

_LOOK_S = 0.5
_LINES_A_LOOK = 500

_JobId = Annotated[uuid.UUID, typer.Argument(help="Id of the job: that of its training, check or pull.")]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    jobs = typer.Typer(no_args_is_help=True, help="Follow, cancel and repeat what workers do.")
    for command in (list_jobs, show, follow, cancel, retry):
        jobs.command(command.__name__.removesuffix("_jobs"))(command)
    app.add_typer(jobs, name="jobs")


def list_jobs(
    *,
    model: Annotated[str | None, typer.Option(help="Only this model's.")] = None,
    state: Annotated[str | None, typer.Option(help=f"Only those that are {', '.join(JOB_STATES)}.")] = None,
    kind: Annotated[str | None, typer.Option(help=f"Only one of {', '.join(JOB_KINDS)}.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    as_json: JsonOption = False,
) -> None:
    """List trainings, checks and pulls together, the newest request first."""
    wanted_state, wanted_kind = _read_state(state), _read_kind(kind)
    with database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        found = load_jobs(connection, model=model, state=wanted_state, kind=wanted_kind, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        "Jobs",
        ["id", "kind", "model", "state", "step", "%", "by", "requested (UTC)"],
        [
            [
                job.id,
                job.kind,
                job.model,
                job.state,
                job.step,
                f"{job.progress:.0%}".rstrip("%"),
                job.actor,
                job.requested_at,
            ]
            for job in found
        ],
    )


def show(
    job_id: _JobId,
    *,
    lines: Annotated[int, typer.Option(help="How many of its last lines.", min=0, max=KEPT_LINES)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show one job: where it is, what it made or why it failed, and its last lines."""
    with database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        job, log = get_job(connection, job_id), load_last_lines(connection, job_id, lines)
    if as_json:
        print_json({"job": job, "log": log})
        return
    _print_job(job)
    for line in log:
        console.print(Text(f"  {line.text}"), soft_wrap=True)


def follow(
    job_id: _JobId,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line: states and log lines.")
    ] = False,
) -> None:
    """Show a job's lines and its progress until it has ended; exit code 1 where it failed or was cancelled."""
    with database_session(is_reading=True) as connections:
        with connections.engine.connect() as connection:
            job = get_job(connection, job_id)
            workers = count_live_workers(connection, connections.settings.worker_timeout_s)
        if job.is_open and workers == 0:
            errors.print("No worker is running: it begins with `millrace up` or `millrace work`.")
        job = _follow_as_json(connections, job_id) if as_json else _follow(connections, job)
    if not as_json:
        _print_job(job)
    if job.state != "finished":
        raise typer.Exit(1)


def cancel(job_id: _JobId, *, as_json: JsonOption = False) -> None:
    """Cancel a job: at once where it is queued; a running one is stopped by its worker within seconds."""
    with database_session() as connections, connections.engine.begin() as connection:
        job = cancel_job(connection, job_id, actor=find_actor())
    if as_json:
        print_json(job)
    else:
        _print_job(job)


def retry(job_id: _JobId, *, as_json: JsonOption = False) -> None:
    """Queue a failed or cancelled training again, with its snapshot and parameters."""
    with database_session() as connections, connections.engine.begin() as connection:
        training, is_new = retry_job(connection, job_id, actor=find_actor())
        job = get_job(connection, training.id)
    if not is_new:
        errors.print("It is repeated already, by this training:")
    if as_json:
        print_json(job)
    else:
        _print_job(job)


def _follow(connections: Connections, job: Job) -> Job:
    """Lines go to standard output, in a pipe too; the bar to standard error, where that is a terminal."""
    number = 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
        redirect_stdout=console.is_terminal,
    ) as progress:
        bar = progress.add_task(job.step, total=1.0)
        while True:
            job, lines = _look(connections, job.id, number)
            for line in lines:
                number = line.number
                typer.echo(line.text)
            progress.update(bar, description=job.step, completed=job.progress)
            if not job.is_open and not lines:
                return job
            if len(lines) < _LINES_A_LOOK:
                time.sleep(_LOOK_S)


def _follow_as_json(connections: Connections, job_id: uuid.UUID) -> Job:
    number, shown = 0, None
    while True:
        job, lines = _look(connections, job_id, number)
        for line in lines:
            number = line.number
            typer.echo(orjson.dumps({"event": "line", "line": line}))
        if job != shown:
            typer.echo(orjson.dumps({"event": "state", "job": job}))
            shown = job
        if not job.is_open and not lines:
            return job
        if len(lines) < _LINES_A_LOOK:
            time.sleep(_LOOK_S)


def _look(connections: Connections, job_id: uuid.UUID, number: int) -> tuple[Job, list[JobLine]]:
    with connections.engine.connect() as connection:
        # The job first: its last lines are there before it has ended.
        return get_job(connection, job_id), load_lines_after(connection, job_id, number, _LINES_A_LOOK)


def _print_job(job: Job) -> None:
    console.print(f"{job.kind} {job.id} of {job.model}: {job.state}", style="bold", markup=False, soft_wrap=True)
    facts = {
        "step": f"{job.step}, {job.progress:.0%}" if job.is_open else None,
        "error": job.error,
        "repeats": job.repeats_id,
        "asked for by": job.actor,
        "attempts": job.attempts,
        "worker": job.worker,
        **job.result,
    }
    for name, value in facts.items():
        if value is not None:
            console.print(f"  {name}: {value}", markup=False, soft_wrap=True)


def _read_state(given: str | None) -> JobState | None:
    for state in JOB_STATES:
        if given == state:
            return state
    if given is not None:
        raise ParameterRejected("state", given, f"one of {', '.join(JOB_STATES)}")
    return None


def _read_kind(given: str | None) -> JobKind | None:
    for kind in JOB_KINDS:
        if given == kind:
            return kind
    if given is not None:
        raise ParameterRejected("kind", given, f"one of {', '.join(JOB_KINDS)}")
    return None
