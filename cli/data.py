"""Commands for data: bring rows in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.actor import find_actor
from cli.output import JsonOption, console, errors, print_json
from cli.session import database_session
from core.errors import ParameterRejected
from ingestion.encodings import ENCODINGS, Encoding
from ingestion.fetching import show_address
from ingestion.folder import STEADY_S, take_files
from ingestion.importing import ImportResult, import_file
from ingestion.pulling import pull_source, request_pull
from jobs.ingesting import get_pulled_source
from workloads.catalogue import get_workload, load_catalogue
from workloads.declaration import PulledSource

_ONCE = "0 0 1 1 *"

_Model = Annotated[str, typer.Argument(help="The workload that the rows belong to, as in `prices`.")]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(ingest)
    app.command()(watch)
    app.command()(pull)


def ingest(
    model: Annotated[
        str, typer.Argument(help="The workload that the rows belong to, as in `prices`; `mqtt` alone subscribes.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A CSV, XLSX, Parquet or JSON file with the workload's columns.", exists=True, dir_okay=False
        ),
    ] = None,
    *,
    encoding: Annotated[
        str | None,
        typer.Option(
            help=f"Of a CSV file: {', '.join(ENCODINGS)}. Without it UTF-8, or UTF-16 by its byte order mark."
        ),
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="Of a workbook; without it the first.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a file's rows in. All of it is stored or, with the reasons, nothing; the same rows twice change nothing.

    `millrace ingest mqtt`, without a file, is a process: it takes the messages that the workloads declare from the
    broker, until it is stopped.
    """
    if file is None:
        if model != "mqtt":
            raise typer.BadParameter(f"a file of rows for {model!r} is needed", param_hint="FILE")
        from cli.streaming import run_subscriber

        run_subscriber()
        return
    contract = get_workload(model).build_contract()
    checked = check_encoding(encoding)
    with database_session() as connections, _showing_progress(file) as show_progress:
        result = import_file(
            connections.engine,
            contract,
            file,
            name=file.name,
            actor=find_actor(),
            encoding=checked,
            sheet=sheet,
            max_bytes=connections.settings.max_upload_bytes,
            on_progress=show_progress,
        )
    if as_json:
        print_json(result)
        return
    print_import(f"{file.name} -> {model}", result)


def watch(
    folder: Annotated[
        Path | None, typer.Argument(help="The folder, with one sub-folder a model; MILLRACE_WATCH_FOLDER without it.")
    ] = None,
    *,
    steady_s: Annotated[
        float, typer.Option("--steady", min=0.0, help="Seconds without a change after which a file is complete.")
    ] = STEADY_S,
    as_json: JsonOption = False,
) -> None:
    """Take what is complete in the watched folder, once. The worker does it every ten seconds where that is set.

    A file goes to `done/` or, with the reasons in a `.txt` beside it, to `rejected/`.
    """
    contracts = {name: workload.build_contract() for name, workload in load_catalogue().items()}
    with database_session() as connections:
        settings = connections.settings
        root = folder.expanduser().absolute() if folder is not None else settings.watch_folder
        if root is None:
            raise ParameterRejected("folder", None, "name it, or set MILLRACE_WATCH_FOLDER")
        found = take_files(connections.engine, contracts, root, max_bytes=settings.max_upload_bytes, steady_s=steady_s)
        taken = []
        for file in found:
            taken.append(file)
            if not as_json:
                console.print(f"{file.model}: {file.path.name} -> {file.path.parent.name}/", markup=False)
    if as_json:
        print_json(taken)
    elif not taken:
        console.print(f"No complete file is waiting in {root}", markup=False)
    if any(not file.is_imported for file in taken):
        raise typer.Exit(2)


def pull(
    model: _Model,
    source: Annotated[str | None, typer.Argument(help="The declared source, where there are several.")] = None,
    *,
    address: Annotated[
        str | None,
        typer.Option(help="An HTTP(S) address of a CSV, XLSX, Parquet or JSON file, instead of a declared one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pull rows from outside now: from a source that the workload declares, or from any address."""
    workload = get_workload(model)
    if address is not None:
        if source is not None:
            raise ParameterRejected("address", address, f"either an address or the source {source!r}")
        wanted = PulledSource(name=show_address(address), kind="http", address=address, cron=_ONCE)
    else:
        wanted = get_pulled_source(workload, source)
    with database_session() as connections:
        with connections.engine.begin() as connection:
            pull_id = request_pull(connection, model, wanted, None, actor=find_actor())
        if pull_id is None:
            raise RuntimeError("a pull by hand was taken for a scheduled one")
        done = pull_source(
            connections.engine,
            connections.settings,
            workload.build_contract(),
            wanted,
            pull_id,
            actor=find_actor(),
        )
    if as_json:
        print_json(done)
    elif done.result is None:
        console.print(f"{wanted.name} has nothing new since it was last pulled", markup=False)
    else:
        print_import(f"{wanted.name} -> {model}", done.result)


def check_encoding(given: str | None) -> Encoding | None:
    """The encoding that a person named; raises ParameterRejected."""
    if given is None:
        return None
    for encoding in ENCODINGS:
        if given.casefold() == encoding:
            return encoding
    raise ParameterRejected("encoding", given, f"{', '.join(ENCODINGS)}; UTF-16 is known by its byte order mark")


@contextmanager
def _showing_progress(file: Path) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = progress.add_task(file.name, total=file.stat().st_size)

        def show_progress(read_bytes: int, _size_bytes: int) -> None:
            progress.update(bar, completed=read_bytes)

        yield show_progress


def print_import(title: str, result: ImportResult) -> None:
    """Say what an import did."""
    lines = [f"{title}: {result.rows_new} new, {result.rows_changed} changed, {result.rows_unchanged} unchanged rows"]
    if result.sample_rows_replaced:
        lines.append(f"They take the place of {result.sample_rows_replaced} rows of sample data, which were removed.")
    if result.rows_repeated:
        lines.append(f"{result.rows_repeated} rows repeated an earlier one of the file and were left out.")
    if result.rows_rejected:
        lines.append(
            f"{result.rows_rejected} rows have the key of an earlier row and other values: they were left out, and "
            "`millrace rejected MODEL` lists them."
        )
    if result.gaps:
        lines.append(f"The series has {result.gaps} gap(s):")
        lines += [f"  {gap.describe()}" for gap in result.first_gaps]
    if result.ignored_columns:
        lines.append(f"Columns that the model does not have were left out: {', '.join(result.ignored_columns)}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
