"""`millrace up`: the whole platform in one command."""

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer
from sqlalchemy.exc import OperationalError

from cli.first_link import print_first_link
from cli.output import console
from cli.status import answers, load_status, print_status
from core.connections import Connections, open_connections
from core.embedded_broker import is_broker_listening
from core.embedded_database import EmbeddedDatabase
from core.errors import PlatformAlreadyRunning, PortTaken, Unavailable
from core.home import make_home
from core.job_queue import count_live_workers
from core.local_platform import build_tracking_process, open_database
from core.logs import configure_logs
from core.settings import Settings, load_settings
from core.subscribers import load_subscribers
from core.supervision import ProcessSpec, Supervisor
from core.trainings import Training, find_open_training
from jobs.retraining import load_schedules
from jobs.schedule import find_waiting
from jobs.startup import declare_workloads, import_samples

_LOOK_S = 1.0
_START_TIMEOUT_S = 240.0


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(up)


def up() -> None:
    """Start the whole platform here: database, broker, tracking, serving, control, worker, ingest; Ctrl-C stops it.

    Brings in the sample data of workloads that have no rows, trains what has no Production version, and prints where
    to look. Data stay in the folder MILLRACE_HOME (`.millrace`); the next start goes on from there.
    """
    settings = load_settings()
    # The worker would refuse them, and be started again and again.
    load_schedules(settings)
    configure_logs(settings.model_copy(update={"log_format": "text", "log_level": "WARNING"}), "up")
    make_home(settings.home)
    _listen_to_interrupts()
    with _only_one(settings.home):
        _check_ports(settings)
        console.print(f"Millrace starts on {settings.home}")
        try:
            _run(settings)
        except KeyboardInterrupt:
            console.print("Millrace has stopped; the data stay.")


def _run(settings: Settings) -> None:
    with open_database(settings, _tell) as url, open_connections(settings, url) as connections:
        _tell("the database answers, its schema is up to date")
        declare_workloads(connections)
        if settings.sample_data:
            for name, result in import_samples(connections):
                _tell(f"{name}: {result.rows_new} rows of sample data brought in")
        supervisor = Supervisor(build_processes(connections), watches=_build_watches(settings), progress=_tell)
        try:
            supervisor.start(_START_TIMEOUT_S)
            _watch(connections, supervisor)
        finally:
            # A second Ctrl-C must not leave anything running.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            _tell("stopping everything")
            supervisor.stop()


def _tell(sentence: str) -> None:
    console.print(f"  {sentence}", markup=False)


def _listen_to_interrupts() -> None:
    """End the platform in order on Ctrl-C, SIGTERM, and a terminal that is closed (unless `nohup` says otherwise)."""
    # Python leaves SIGINT ignored where a shell started it in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _build_watches(settings: Settings) -> list[Callable[[], object]]:
    return [EmbeddedDatabase(settings.home, _tell).ensure_running] if settings.database_url is None else []


def build_processes(connections: Connections) -> list[ProcessSpec]:
    """Every process of the platform but the database, in the order in which they start."""
    settings = connections.settings
    environment = {
        **os.environ,
        "DATABASE_URL": connections.database_url,
        "MILLRACE_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_address,
    }
    environment["AUTO_TRAIN_ON_STARTUP"] = str(trains_on_startup(settings)).lower()

    def build(name: str, command: str, is_ready: Callable[[], bool], *after: str) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            command=[sys.executable, "-m", "cli.main", *command.split()],
            env=environment,
            is_ready=is_ready,
            log_path=settings.logs_folder / f"{name}.log",
            start_after=after,
        )

    # A broker elsewhere takes the embedded one's place.
    brokers = [build("broker", "broker", lambda: is_broker_listening("127.0.0.1", settings.mqtt_port))]
    if settings.mqtt_url is not None:
        brokers = []
    return [
        *brokers,
        build_tracking_process(settings, connections.database_url),
        build("control", "control --no-link", lambda: answers(f"{settings.control_address}/health/live")),
        build("serving", "serve", lambda: answers(f"{settings.serving_address}/health/live")),
        build("worker", "work", lambda: _has_worker(connections)),
        build("ingest", "ingest mqtt", lambda: _has_subscriber(connections), *(broker.name for broker in brokers)),
    ]


def _has_subscriber(connections: Connections) -> bool:
    try:
        with connections.engine.connect() as connection:
            client_id = connections.settings.mqtt_client_id
            return any(state.is_live for state in load_subscribers(connection) if state.client_id == client_id)
    except OperationalError:
        return False


def _has_worker(connections: Connections) -> bool:
    try:
        with connections.engine.connect() as connection:
            return count_live_workers(connection, connections.settings.worker_timeout_s) > 0
    except OperationalError:
        return False


def trains_on_startup(settings: Settings) -> bool:
    """`millrace up` trains what has no Production version, unless the setting says otherwise."""
    return settings.auto_train_on_startup or "auto_train_on_startup" not in settings.model_fields_set


def _watch(connections: Connections, supervisor: Supervisor) -> None:
    """Say how the first trainings go, print where to look, then keep every part running until interrupted."""
    shown: dict[str, str] = {}
    is_settled = False
    while True:
        supervisor.tick()
        is_settled = is_settled or _is_settled(connections, shown)
        time.sleep(_LOOK_S)


def _is_settled(connections: Connections, shown: dict[str, str]) -> bool:
    """Show how the first trainings go and, when they have ended, where to look; true when that was printed."""
    try:
        if not _show_progress(connections, shown):
            return False
        _print_where(connections)
    except (Unavailable, OperationalError):
        # The supervisor starts again what is away.
        return False
    return True


def _show_progress(connections: Connections, shown: dict[str, str]) -> bool:
    """Print each new step of the trainings under way; true when none is under way or to come."""
    if not trains_on_startup(connections.settings):
        return True
    waiting = find_waiting(connections)
    with connections.engine.connect() as connection:
        # A first training takes Production a moment before it has ended.
        followed = sorted({*waiting, *shown})
        open_trainings = [found for name in followed if (found := find_open_training(connection, name))]
    for training in open_trainings:
        line = _describe(training)
        if shown.get(training.model) != line:
            shown[training.model] = line
            _tell(f"training {line}")
    return not waiting and not open_trainings


def _describe(training: Training) -> str:
    return f"{training.model}: {training.step.partition(',')[0]} ({training.progress:.0%})"


def _print_where(connections: Connections) -> None:
    settings = connections.settings
    console.print()
    print_status(load_status(connections))
    console.print(f"Predictions and everything else: {settings.serving_address} (its routes: /docs)")
    console.print(f"MLflow's pages: {settings.tracking_address}")
    print_first_link(settings, connections.database_url)
    console.print("Ctrl-C stops everything; the data stay.")


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the folder for this platform; raises PlatformAlreadyRunning."""
    path = home / "up.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlatformAlreadyRunning(str(home), path.read_text().strip() or "?") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _check_ports(settings: Settings) -> None:
    ports = {
        "MILLRACE_SERVING_PORT": (settings.host, settings.serving_port),
        "MILLRACE_CONTROL_PORT": (settings.private_host, settings.control_port),
        "MILLRACE_TRACKING_PORT": (settings.private_host, settings.tracking_port),
    }
    if settings.mqtt_url is None:
        ports["MILLRACE_MQTT_PORT"] = ("127.0.0.1", settings.mqtt_port)
    for name, (host, port) in ports.items():
        with socket.socket() as probe:
            # A port that a stopped server left in TIME_WAIT is free for the next one.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                raise PortTaken(name, port) from None
