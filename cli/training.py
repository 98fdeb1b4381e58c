"""Commands for trainings: start one and follow it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.actor import find_actor
from cli.output import JsonOption, console, errors, print_json, print_table
from cli.session import platform_session
from core.connections import Connections
from core.errors import ParameterRejected, TrainingFailed
from core.job_queue import count_live_workers
from core.trainings import CONTINUE, VERSION_NAME, Training, get_training, hold_alive, request_training
from core.verdicts import Verdict, find_verdict
from core.version_names import check_name_is_free
from jobs.recovery import recover_jobs
from jobs.training import carry_out
from workloads.catalogue import get_workload

_LOOK_S = 0.5

SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="A training parameter, as in `--set learning_rate=0.001`.")
]
VersionOption = Annotated[
    str | None, typer.Option("--version", help="Name of the version, as in 1.0.0; without it the day's, YYYYMMDD.")
]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the training to its verdict.")]
ModelArgument = Annotated[str, typer.Argument(help="The workload to train, as in `prices`.")]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(train)
    app.command()(retrain)


def train(
    model: ModelArgument,
    *,
    given: SetOption = None,
    version: VersionOption = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a model anew on all stored rows; the gate decides whether the version takes Production."""
    _start(model, _read_parameters(given or []), version, wait=wait, as_json=as_json)


def retrain(
    model: ModelArgument,
    *,
    given: SetOption = None,
    version: VersionOption = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Continue the training of the Production version's weights on all stored rows."""
    _start(model, {**_read_parameters(given or []), CONTINUE: 1}, version, wait=wait, as_json=as_json)


def _read_parameters(given: Sequence[str]) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for entry in given:
        name, separator, value = entry.partition("=")
        if not separator:
            raise ParameterRejected(entry, "", "write --set name=value")
        parameters[name] = value
    return parameters


def _start(model: str, parameters: dict[str, object], version: str | None, *, wait: bool, as_json: bool) -> None:
    workload = get_workload(model)
    workload.resolve_parameters({name: value for name, value in parameters.items() if name != CONTINUE})
    with platform_session() as connections:
        with connections.engine.connect() as connection:
            workers = count_live_workers(connection, connections.settings.worker_timeout_s)
        if workers == 0:
            # Nobody else does it: a training that an interrupted command left open would be followed for ever.
            recover_jobs(connections)
        with connections.engine.begin() as connection:
            if version is not None:
                parameters[VERSION_NAME] = check_name_is_free(connection, model, version)
            training, is_new = request_training(
                connection,
                model,
                cause="hand",
                actor=find_actor(),
                parameters=parameters,
                is_enqueued=workers > 0 or not wait,
            )
        if not is_new:
            errors.print(f"A training of {model} is already {training.state}; this one is followed: {training.id}")
        if not wait:
            _print_training(connections, training, as_json=as_json)
            if workers == 0:
                errors.print("No worker is running: it begins with `millrace up` or `millrace work`.")
            return
        training = _carry_out_here(connections, training) if workers == 0 else _follow(connections, training.id)
        _print_training(connections, training, as_json=as_json)
        if training.state != "finished":
            raise TrainingFailed(model, training.step, training.error or training.state)


def _carry_out_here(connections: Connections, training: Training) -> Training:
    """Without a worker this command does its work: the training runs in a child of this process."""
    errors.print("No worker is running; this command carries the training out itself.")
    with hold_alive(connections.engine, training.id):
        return asyncio.run(_carry_out_and_follow(connections, training.id))


async def _carry_out_and_follow(connections: Connections, training_id: uuid.UUID) -> Training:
    work = asyncio.create_task(carry_out(connections, training_id))
    with _bar() as progress:
        bar = progress.add_task("queued", total=1.0)
        while not work.done():
            with connections.engine.connect() as connection:
                training = get_training(connection, training_id)
            progress.update(bar, description=training.step, completed=training.progress)
            await asyncio.wait([work], timeout=_LOOK_S)
    return await work


def _follow(connections: Connections, training_id: uuid.UUID) -> Training:
    with _bar() as progress:
        bar = progress.add_task("queued", total=1.0)
        while True:
            with connections.engine.connect() as connection:
                training = get_training(connection, training_id)
            progress.update(bar, description=training.step, completed=training.progress)
            if not training.is_open:
                return training
            time.sleep(_LOOK_S)


def _bar() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=errors, transient=True)


def _print_training(connections: Connections, training: Training, *, as_json: bool) -> None:
    verdict: Verdict | None = None
    if training.verdict_id is not None:
        with connections.engine.connect() as connection:
            verdict = find_verdict(connection, training.verdict_id)
    if as_json:
        print_json({"training": training, "verdict": verdict})
        return
    console.print(f"Training {training.id} of {training.model}: {training.state}")
    if verdict is not None:
        console.print(f"Version {verdict.version}: {verdict.outcome}. {verdict.reason}", markup=False)
        print_table(
            "Gate",
            ["check", "passed", "value", "threshold", "reason"],
            [
                [check.name, "yes" if check.has_passed else "no", check.value, check.threshold, check.reason]
                for check in verdict.checks
            ],
        )
