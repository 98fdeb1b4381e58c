"""Commands for messages: take them from a broker, and publish a file's rows to one."""

import signal
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray
from rich.progress import Progress

from cli.command_settings import load_command_settings
from cli.output import console, errors
from core.connections import open_connections
from core.data_errors import NothingToSubscribe
from core.local_platform import open_database
from core.logs import configure_logs
from core.settings import load_settings
from ingestion.broker_connection import build_broker
from ingestion.messages import Feed
from ingestion.mqtt import Subscriber
from ingestion.reading import read_columns
from ingestion.replaying import build_messages, find_replayable, publish_rows
from jobs.startup import declare_workloads
from workloads.catalogue import get_workload, load_catalogue


def run_subscriber() -> None:
    """Take messages for every workload that declares some, until SIGTERM or Ctrl-C."""
    settings = load_settings()
    configure_logs(settings, "ingest")
    feeds = [
        Feed(workload.build_contract(), subscription)
        for workload in load_catalogue().values()
        for subscription in workload.subscriptions
    ]
    if not feeds:
        raise NothingToSubscribe
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with open_database(settings) as url, open_connections(settings, url) as connections:
        declare_workloads(connections)
        Subscriber(connections.engine, build_broker(settings), feeds, say=_tell).run(stopping)


def _tell(sentence: str) -> None:
    console.print(sentence, markup=False, soft_wrap=True)


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(replay)


def replay(
    file: Annotated[Path, typer.Argument(help="A CSV file with the workload's columns.", exists=True, dir_okay=False)],
    *,
    model: Annotated[str, typer.Option(help="The workload whose messages the rows become.")],
    speed: Annotated[
        float, typer.Option(min=0.001, help="Seconds of the file's time in one second; 3600 is an hour a second.")
    ] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Publish so many rows at most.")] = None,
) -> None:
    """Publish a file's rows to the broker as the messages of their workload, at the pace of their times."""
    settings = load_command_settings()
    workload = get_workload(model)
    contract = workload.build_contract()
    subscription = find_replayable(contract, workload.subscriptions)
    columns = read_columns(contract, file, max_bytes=settings.max_upload_bytes)
    rows, times = _list_rows(columns, contract.key.time or "", limit)
    with Progress(console=errors, transient=True) as progress:
        bar = progress.add_task(file.name, total=len(rows))
        count = publish_rows(
            build_broker(settings),
            build_messages(contract, subscription, rows),
            times,
            speed,
            lambda done: progress.update(bar, completed=done),
        )
    console.print(f"{count} messages published to {build_broker(settings)}")


def _list_rows(
    columns: Mapping[str, NDArray[Any]], time: str, limit: int | None
) -> tuple[list[dict[str, object]], list[datetime]]:
    """The rows as JSON has them, in the order of their times, and those times in UTC."""
    times = [at.replace(tzinfo=UTC) for at in columns[time][:limit].astype("datetime64[us]").tolist()]
    plain = {name: values[:limit].tolist() for name, values in columns.items() if name != time}
    rows = [
        {time: at.isoformat(), **{name: values[number] for name, values in plain.items()}}
        for number, at in enumerate(times)
    ]
    return rows, times
