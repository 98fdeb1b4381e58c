"""Commands that are one process each; `millrace up` runs them all."""

import signal
import subprocess
import webbrowser
from typing import Annotated

import typer

from cli.first_link import print_first_link
from cli.output import console
from core.errors import TrackingUnavailable
from core.local_platform import open_database
from core.logs import configure_logs
from core.settings import Settings, load_settings
from core.supervision import build_guarded_command
from core.tracking_server import build_server_command, find_tracking_store_url, is_tracking_ready


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(serve)
    app.command()(control)
    app.command()(work)
    app.command()(tracking)
    app.command()(broker)
    app.command()(ui)


def serve() -> None:
    """Serve predictions on port 8000; follows every transition of the registry."""
    from serving.server import run_serving

    settings = _load("serving")
    with open_database(settings) as url:
        run_serving(settings, url)


def control(
    *,
    prints_link: Annotated[
        bool,
        typer.Option("--link/--no-link", help="Print a one-time link for the first administrator while there is none."),
    ] = True,
) -> None:
    """Serve everything else over HTTP on port 8001: data in, trainings, versions, accounts, the door to MLflow."""
    from control.server import run_control

    settings = _load("control")
    with open_database(settings) as url:
        if prints_link:
            print_first_link(settings, url)
        run_control(settings, url)


def work() -> None:
    """Run jobs: trainings, checks, the schedule and the reconciler. As many workers as wanted, on any machine."""
    from jobs.worker import run_worker

    settings = _load("worker")
    with open_database(settings) as url:
        run_worker(settings, url)


def tracking() -> None:
    """Run the MLflow tracking server on the platform's store."""
    settings = _load("tracking")
    with open_database(settings) as url:
        _run_tracking(settings, url)


def broker() -> None:
    """Run the embedded MQTT broker, for this machine alone; `millrace up` has one."""
    from core.embedded_broker import run_embedded_broker

    run_embedded_broker(_load("broker").mqtt_port)


def ui(
    *,
    is_opened: Annotated[bool, typer.Option("--open/--no-open", help="Open the pages in a browser.")] = True,
    is_store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Print the address of MLflow's backend store, WITH ITS PASSWORD, and do nothing else: "
            '`MLFLOW_BACKEND_STORE_URI="$(millrace ui --store)" mlflow ui` opens the same store.',
        ),
    ] = False,
) -> None:
    """Open MLflow's pages on the platform's store; starts the tracking server where it does not run."""
    settings = _load("ui")
    if is_store:
        with open_database(settings) as url:
            typer.echo(find_tracking_store_url(settings, url))
        return
    address = settings.tracking_address
    console.print(f"MLflow: {address}")
    if is_tracking_ready(address):
        if is_opened:
            webbrowser.open(address)
        return
    if settings.tracking_uri is not None:
        raise TrackingUnavailable(address, "it is named by MLFLOW_TRACKING_URI and does not answer")
    with open_database(settings) as url:
        _run_tracking(settings, url)


def _load(process: str) -> Settings:
    settings = load_settings()
    configure_logs(settings, process)
    return settings


def _run_tracking(settings: Settings, database_url: str) -> None:
    command, environment = build_server_command(settings, database_url)
    raise typer.Exit(_run_bound(command, environment))


def _run_bound(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in the foreground until it ends; Ctrl-C and SIGTERM end it and are no failure."""
    process = subprocess.Popen(build_guarded_command(command), env=environment, start_new_session=True)
    is_stopped = False

    def stop(*_: object) -> None:
        nonlocal is_stopped
        is_stopped = True
        process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    code = process.wait()
    return 0 if is_stopped else code
