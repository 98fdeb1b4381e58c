"""Commands for alerts."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.output import JsonOption, console, print_json, print_table
from cli.session import database_session
from core.alerts import load_alerts, load_messages
from core.delivery_errors import DeliveryFailed
from core.names import check_name
from monitoring.alerting import try_channels


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(alerts)


def alerts(
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    *,
    is_open: Annotated[bool, typer.Option("--open", help="Only those that are open.")] = False,
    is_tried: Annotated[bool, typer.Option("--try", help="Send a trial message by every channel that is set.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many at most, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """What people were told of, and what became of the messages."""
    if model is not None:
        check_name("model", model)
    with database_session(is_reading=not is_tried) as connections:
        if is_tried:
            _try(try_channels(connections.settings, str(uuid.uuid4()), datetime.now(UTC)))
            return
        with connections.engine.connect() as connection:
            found = load_alerts(connection, model, is_open=True if is_open else None, limit=limit)
            messages = {alert.id: load_messages(connection, alert.id) for alert in found}
    if as_json:
        print_json([{"alert": alert, "messages": messages[alert.id]} for alert in found])
        return
    rows = [
        [
            alert.raised_at,
            alert.cleared_at or "open",
            alert.model,
            alert.severity,
            f"{alert.title}: {alert.reasons[0]}" if alert.reasons else alert.title,
            ", ".join(f"{one.channel} {one.state}" for one in messages[alert.id] if one.state != "unwanted") or "-",
        ]
        for alert in found
    ]
    print_table(f"{len(found)} alerts", ["raised", "cleared", "model", "severity", "what", "messages"], rows)


def _try(outcomes: dict[str, DeliveryFailed | None]) -> None:
    if not outcomes:
        console.print("No channel is set up; the README's section on alerts names the settings.")
    for channel, failure in outcomes.items():
        console.print(f"{channel}: {'sent' if failure is None else failure.reason}", markup=False)
    if any(failure is not None for failure in outcomes.values()):
        raise typer.Exit(1)
