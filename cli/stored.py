"""Commands for what is stored: where a row came from, what was rejected, snapshots."""

import sys
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy import Engine

from cli.actor import find_actor
from cli.data import print_import
from cli.output import JsonOption, console, errors, print_json, show
from cli.session import database_session, platform_session
from core.contract import Contract
from core.data_errors import RowsRejected
from ingestion.batches import BatchResult
from ingestion.faults import RowFault
from ingestion.raw import get_origin
from ingestion.rejected import RejectedRow, export_rejected, list_replayable, load_rejected, replay
from ingestion.snapshots import SnapshotQuery, create_snapshot
from workloads.catalogue import get_workload

_REJECTED_EXIT_CODE = 2
_STANDARD_OUTPUT = Path("-")

ModelArgument = Annotated[str, typer.Argument(help="The workload, as in `prices`.")]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(rejected)
    app.command()(origin)
    app.command()(snapshot)


def rejected(
    model: ModelArgument,
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many to list at most, newest first.")] = 50,
    export: Annotated[
        Path | None, typer.Option(help="Write all of them to this CSV file, or to standard output for `-`.")
    ] = None,
    is_replay: Annotated[bool, typer.Option("--replay", help="Bring them in anew, from the kept raw bytes.")] = False,
    source: Annotated[UUID | None, typer.Option(help="Replay this source alone.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List rejected rows with line, column, value and rule; export them; replay them after a fix of the workload."""
    contract = get_workload(model).build_contract()
    is_changing = is_replay or source is not None
    with database_session(is_reading=not is_changing) as connections:
        if is_changing:
            _replay(connections.engine, contract, source, as_json=as_json)
            return
        with connections.engine.connect() as connection:
            if export is None:
                _list(model, load_rejected(connection, model, limit), limit, as_json=as_json)
                return
            if export == _STANDARD_OUTPUT:
                export_rejected(connection, model, sys.stdout)
                return
            with export.open("w", encoding="utf-8", newline="") as file:
                count = export_rejected(connection, model, file)
    if as_json:
        print_json({"file": str(export), "rows": count})
    else:
        _tell(f"{count} rejected -> {export}")


def _list(model: str, rows: list[RejectedRow], limit: int, *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print(f"Nothing of {model} is rejected.")
        return
    for source_id, group in groupby(rows, key=lambda row: row.source_id):
        faults = list(group)
        first = faults[0]
        _tell(f"{first.source} at {show(first.rejected_at)}, source {source_id}")
        for row in faults:
            _tell(f"  {RowFault(row.line, row.column, row.value, row.rule).to_fault()}")
    if len(rows) == limit:
        _tell(f"These are the last {limit}; --limit lists more, --export writes all.")


def _tell(sentence: str) -> None:
    console.print(sentence, markup=False, soft_wrap=True)


def _replay(engine: Engine, contract: Contract, source: UUID | None, *, as_json: bool) -> None:
    with engine.connect() as connection:
        chosen = [source] if source is not None else list_replayable(connection, contract.model)
    outcomes: list[dict[str, object]] = []
    for source_id in chosen:
        try:
            result = replay(engine, contract, source_id, actor=find_actor())
        except RowsRejected as error:
            outcomes.append({"replayed": source_id, "error": error.sentence})
            if not as_json:
                errors.print(error.sentence, style="red", markup=False, soft_wrap=True)
        else:
            outcomes.append({"replayed": source_id, "result": result})
            if as_json:
                continue
            if isinstance(result, BatchResult):
                _tell(
                    f"{source_id} -> {contract.model}: {result.rows_accepted} rows stored, "
                    f"{result.rows_rejected} still rejected"
                )
            else:
                print_import(f"{source_id} -> {contract.model}", result)
    if as_json:
        print_json(outcomes)
    elif not outcomes:
        _tell(f"No refused file and no row of a batch of {contract.model} is left to replay.")
    if any("error" in outcome for outcome in outcomes):
        sys.exit(_REJECTED_EXIT_CODE)


def origin(
    model: ModelArgument,
    key: Annotated[list[str], typer.Argument(help="The row's key: entity and time, time, id or hash.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Show the raw line that a stored row came from, and the file or batch that brought it."""
    contract = get_workload(model).build_contract()
    with database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        found = get_origin(connection, contract, key)
    if as_json:
        print_json(found)
        return
    place = f"{found.name} ({found.kind}, {found.form}), line {found.line}"
    _tell(f"{place}, from {found.actor} at {show(found.received_at)}")
    if found.text is not None:
        _tell(found.text)


def snapshot(
    model: ModelArgument,
    *,
    first_at: Annotated[datetime | None, typer.Option("--from", help="Earliest time, UTC.")] = None,
    last_at: Annotated[datetime | None, typer.Option("--to", help="Latest time, UTC.")] = None,
    entity: Annotated[list[str] | None, typer.Option(help="One entity of several; may be repeated.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="One column of several; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a snapshot of the stored rows: a Parquet file beside the artifacts, under the digest of its content."""
    query = SnapshotQuery(
        first_at=first_at.replace(tzinfo=UTC) if first_at else None,
        last_at=last_at.replace(tzinfo=UTC) if last_at else None,
        entities=tuple(entity) if entity else None,
        columns=tuple(column) if column else None,
    )
    contract = get_workload(model).build_contract()
    with platform_session() as connections, TemporaryDirectory(prefix="millrace-snapshot-") as folder:
        cut = create_snapshot(connections.engine, contract, connections.tracking, Path(folder), query=query)
    if as_json:
        print_json(cut)
        return
    span = f" from {cut.first_at:%Y-%m-%d %H:%M:%S} to {cut.last_at:%Y-%m-%d %H:%M:%S}" if cut.first_at else ""
    _tell(f"{cut.digest}: {cut.rows} rows{span}, {cut.bytes} bytes, {cut.uri}")
