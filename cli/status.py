"""What is running, what serves, and where to look."""

import urllib.error
import urllib.request
from dataclasses import dataclass

import typer

from cli.output import JsonOption, print_json, print_table
from cli.session import database_session
from core.connections import Connections
from core.contracts import load_models
from core.errors import TrackingUnavailable
from core.job_queue import count_live_workers
from core.settings import Settings
from core.subscribers import load_subscribers
from core.targets import load_targets
from core.tracking_server import is_tracking_ready
from core.trainings import Training, load_trainings

_LOOK_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class ModelStatus:
    """One model: what it should serve, what is in Production, its newest training."""

    model: str
    target: str
    production: int | None
    versions: int | None
    training: Training | None


@dataclass(frozen=True)
class PlatformStatus:
    """Every process with its address and whether it answers, and every model."""

    processes: dict[str, tuple[str, bool]]
    models: list[ModelStatus]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(status)


def status(*, as_json: JsonOption = False) -> None:
    """Show processes, models, versions and trainings."""
    with database_session(is_reading=True) as connections:
        found = load_status(connections)
    if as_json:
        print_json(found)
    else:
        print_status(found)


def load_status(connections: Connections) -> PlatformStatus:
    """Ask every process and the database."""
    settings = connections.settings
    with connections.engine.connect() as connection:
        workers = count_live_workers(connection, settings.worker_timeout_s)
        subscribers = load_subscribers(connection)
        models = load_models(connection)
        targets = load_targets(connection)
        trainings = {model: load_trainings(connection, model, limit=1) for model in models}
    statuses = []
    for model in models:
        try:
            versions = connections.registry.load_versions(model)
            production = connections.registry.find_production(model)
        except TrackingUnavailable:
            statuses.append(ModelStatus(model, targets[model], None, None, next(iter(trainings[model]), None)))
            continue
        statuses.append(
            ModelStatus(
                model,
                targets[model],
                None if production is None else production.version,
                len(versions),
                next(iter(trainings[model]), None),
            )
        )
    processes = {**_ask_processes(settings), "worker": ("by heartbeat", workers > 0)}
    for one in subscribers:
        processes[f"ingest {one.client_id}"] = (
            f"{one.broker}, {one.messages} messages, {one.rows_rejected} rejected",
            one.is_live,
        )
    return PlatformStatus(processes, statuses)


def print_status(found: PlatformStatus) -> None:
    """The status as two tables."""
    print_table(
        "Processes",
        ["process", "address", "answers"],
        [[name, address, "yes" if answers else "no"] for name, (address, answers) in found.processes.items()],
    )
    print_table(
        "Models",
        ["model", "serves", "Production", "versions", "last training", "its step"],
        [
            [
                entry.model,
                entry.target,
                entry.production,
                entry.versions,
                None if entry.training is None else entry.training.state,
                None if entry.training is None else entry.training.step,
            ]
            for entry in found.models
        ],
    )


def _ask_processes(settings: Settings) -> dict[str, tuple[str, bool]]:
    serving, control, tracking = settings.serving_address, settings.control_address, settings.tracking_address
    return {
        "serving": (serving, answers(f"{serving}/health/live")),
        "control": (control, answers(f"{control}/health/live")),
        "tracking": (tracking, is_tracking_ready(tracking)),
    }


def answers(url: str) -> bool:
    """Whether an HTTP server answers at this address with success."""
    try:
        with urllib.request.urlopen(url, timeout=_LOOK_TIMEOUT_S) as response:  # noqa: S310  # an address of our settings
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
