"""The command that shows and exports the audit log."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, console, print_json, print_table
from cli.session import database_session
from core.audit import AuditFilter, StoredEntry, iterate_entries, load_entries
from core.audit_export import ExportForm, export_entries

_STANDARD_OUTPUT = Path("-")


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(audit)


def audit(
    *,
    actor: Annotated[str | None, typer.Option(help="Of this actor alone.")] = None,
    action: Annotated[str | None, typer.Option(help="Any part of the action, as in `promote`.")] = None,
    model: Annotated[str | None, typer.Option(help="About this model alone.")] = None,
    from_at: Annotated[datetime | None, typer.Option("--from", help="At this time (UTC) or later.")] = None,
    to_at: Annotated[datetime | None, typer.Option("--to", help="Before this time (UTC).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list at most, newest first.")] = 50,
    export: Annotated[
        Path | None,
        typer.Option(help="Write all of them, oldest first: CSV to a name in .csv, else NDJSON; `-` is this terminal."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show who did what, when, from where and with what result; export it."""
    wanted = AuditFilter(
        actor=actor,
        action=action,
        model=model,
        from_at=from_at.replace(tzinfo=UTC) if from_at else None,
        to_at=to_at.replace(tzinfo=UTC) if to_at else None,
    )
    with database_session(is_reading=True) as connections:
        if export is None:
            with connections.engine.connect() as connection:
                _list(load_entries(connection, wanted, limit), as_json=as_json)
            return
        form: ExportForm = "csv" if export.suffix.lower() == ".csv" else "ndjson"
        pieces = export_entries(iterate_entries(connections.engine, wanted), form)
        if export == _STANDARD_OUTPUT:
            for piece in pieces:
                typer.echo(piece, nl=False)
            return
        with export.open("wb") as file:
            file.writelines(pieces)
    console.print(f"The audit log -> {export}", markup=False, soft_wrap=True)


def _list(entries: list[StoredEntry], *, as_json: bool) -> None:
    if as_json:
        print_json(entries)
        return
    print_table(
        "Audit log",
        ["at (UTC)", "actor", "action", "about", "from", "result"],
        [
            [
                entry.happened_at,
                entry.actor,
                entry.action,
                " ".join(part for part in (entry.model, entry.target) if part) or None,
                entry.client,
                _show_result(entry),
            ]
            for entry in entries
        ],
    )


def _show_result(entry: StoredEntry) -> str:
    words = [entry.outcome, *(str(part) for part in (entry.status, entry.reason) if part is not None)]
    return " ".join(words) + (f" x{entry.times}" if entry.times > 1 else "")
