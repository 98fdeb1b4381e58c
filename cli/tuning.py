"""Commands that train without making a version, each in a process of its own: a search, and a version made again."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cli.session import platform_session
from core.supervision import build_guarded_command
from jobs.training import PROJECT_FOLDER, build_environment
from workloads.catalogue import get_workload


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(tune)
    app.command()(reproduce)


def tune(
    model: Annotated[str, typer.Argument(help="The workload whose parameters are searched, as in `prices`.")],
    *,
    trials: Annotated[int, typer.Option(help="How many trials the study has in the end.", min=1)] = 20,
    workers: Annotated[int, typer.Option(help="How many processes work on the study.", min=1)] = 1,
    objectives: Annotated[
        str, typer.Option(help="What is minimised, commas between, as in `mae` or `mae,rmse`; all errors by default.")
    ] = "",
    pick: Annotated[
        str, typer.Option(help="`min_mape`, `min_mae`, `min_rmse`, `weighted`, or `min_` and a classifier's error.")
    ] = "",
    study: Annotated[str, typer.Option(help="The study; by default that of the rows stored now.")] = "",
) -> None:
    """Search the parameters on folds before the hold-out; a study that was interrupted goes on."""
    get_workload(model)
    options = [f"--trials={trials}", f"--workers={workers}", f"--objectives={objectives}", f"--pick={pick}"]
    _run_entry("tune", model, [*options, f"--study={study}"])


def reproduce(
    model: Annotated[str, typer.Argument(help="The model, as in `prices`.")],
    version: Annotated[str, typer.Argument(help="`Production`, `latest`, or a version's number or name.")],
) -> None:
    """Train a version again from its stored snapshot and show that it predicts the same, or say why not."""
    get_workload(model)
    _run_entry("reproduce", model, [f"--version={version}"])


def _run_entry(entry: str, model: str, options: Sequence[str]) -> None:
    """Run an entry point of the project as a child that this process does not outlive; its exit code is ours."""
    with platform_session() as connections:
        command = [sys.executable, "-m", "jobs.project", entry, model, *options]
        environment = build_environment(connections)
        ended = subprocess.run(build_guarded_command(command), cwd=PROJECT_FOLDER, env=environment, check=False)
    if ended.returncode:
        raise typer.Exit(ended.returncode)
