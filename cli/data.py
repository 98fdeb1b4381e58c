"""Commands for data: bring rows in."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.actor import find_actor
from cli.output import JsonOption, console, errors, print_json
from cli.session import database_session
from ingestion.importing import import_file
from workloads.catalogue import get_workload


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(ingest)


def ingest(
    model: Annotated[str, typer.Argument(help="The workload that the rows belong to, as in `prices`.")],
    file: Annotated[Path, typer.Argument(help="A CSV file with the workload's columns.", exists=True, dir_okay=False)],
    *,
    as_json: JsonOption = False,
) -> None:
    """Bring a file's rows in. All of it is stored or, with the reasons, nothing; the same rows twice change nothing."""
    contract = get_workload(model).build_contract()
    with database_session() as connections:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=errors, transient=True) as progress:
            bar = progress.add_task(file.name, total=file.stat().st_size)

            def show_progress(read_bytes: int, _size_bytes: int) -> None:
                progress.update(bar, completed=read_bytes)

            result = import_file(
                connections.engine,
                contract,
                file,
                name=file.name,
                actor=find_actor(),
                max_bytes=connections.settings.max_upload_bytes,
                on_progress=show_progress,
            )
    if as_json:
        print_json(result)
        return
    console.print(
        f"{file.name} -> {model}: {result.rows_new} new, {result.rows_changed} changed, "
        f"{result.rows_unchanged} unchanged rows"
    )
    if result.ignored_columns:
        console.print(f"Columns that {model} does not have were left out: {', '.join(result.ignored_columns)}")
