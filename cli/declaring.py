"""Commands for workloads of one's own: propose one from a file, and check a declaration before anything runs."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

import workloads
from cli.output import JsonOption, console, print_json
from core.contract import Kind
from core.errors import DeclarationRejected
from core.names import check_name
from core.settings import load_settings
from ingestion.profiling import profile_file
from ingestion.store import build_table_name
from workloads.catalogue import get_workload
from workloads.proposing import propose_workload


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(new)
    app.command()(validate)


def new(
    name: Annotated[str, typer.Argument(help="Name of the workload, as in `pumps`.")],
    file: Annotated[Path, typer.Option("--from", help="A CSV file with its rows.", exists=True, dir_okay=False)],
    *,
    target: Annotated[str | None, typer.Option(help="The column to predict; by default the last.")] = None,
    kind: Annotated[str | None, typer.Option(help="`tabular` or `sequence`; by default what the rows are.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A column to leave out; may be given again.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Propose a workload from a file: columns, key, target, features and a model, to be read and changed."""
    check_name("workload", name)
    build_table_name(name)
    folder = Path(workloads.__path__[0]) / name
    # A folder beside a module of the same name would hide it.
    if folder.exists() or folder.with_suffix(".py").exists():
        raise DeclarationRejected(name, "it exists already; choose another name, or change its workload.py")
    seen = profile_file(file, load_settings().max_upload_bytes)
    source = propose_workload(
        name,
        seen,
        target=target,
        kind=_read_kind(name, kind),
        without=without or (),
    )
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "workload.py").write_text(source, encoding="utf-8")
    try:
        get_workload(name)
    except DeclarationRejected:
        shutil.rmtree(folder)
        raise
    if as_json:
        print_json({"workload": name, "path": folder / "workload.py", "rows": seen.rows})
        return
    console.print(f"Written: {folder / 'workload.py'}, {len(source.splitlines())} lines, from {seen.rows} rows.")
    console.print(f"Read it, change it, then `millrace validate {name}` and `millrace ingest {name} {file}`.")


def validate(
    name: Annotated[str, typer.Argument(help="The workload, as in `prices`.")], *, as_json: JsonOption = False
) -> None:
    """Check a declaration: columns, key, features, parameters, variants, slices, model and policies."""
    workload = get_workload(name)
    workload.check()
    build_table_name(name)
    contract = workload.build_contract()
    if as_json:
        print_json({"workload": name, "contract": contract.model_dump(mode="json")})
        return
    variants = f", variants {', '.join(workload.variants)}" if workload.variants else ""
    console.print(
        f"{name} holds together: {contract.kind} {contract.task} of {contract.target!r} "
        f"from {len(contract.features)} features{variants}."
    )


def _read_kind(name: str, kind: str | None) -> Kind | None:
    match kind:
        case None | "tabular" | "sequence":
            return kind
        case _:
            raise DeclarationRejected(name, f"kind {kind!r} is not proposed; allowed are tabular and sequence")
