"""A whole platform for a measurement: PostgreSQL, MLflow, versions of the 24x4 LSTM(32), one serving process."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray
from sqlalchemy import Engine

from benchmarks.load import TOKEN_VARIABLE
from core.api_tokens import create_token
from core.connections import Connections, open_connections
from core.contract import Column, Contract, Key, Monitored
from core.contracts import write_contracts
from core.database import migrate_database
from core.embedded_database import running_database
from core.features import build_monitored
from core.model_directory import VersionFiles, log_version, write_files
from core.principals import Role
from core.reference import build_reference
from core.settings import Settings, load_settings
from core.tracking_server import build_server_command, wait_for_tracking

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".bench"
"""What the benchmarks make once and keep: the model, and the environments of peers."""
STEPS, FEATURES = 24, 4
START_S = 180.0


def build_bench_contract(model: str) -> Contract:
    """Windows of 24 steps of four sensors, bounded; the last value of each is monitored."""
    names = tuple(f"sensor_{number}" for number in range(FEATURES))
    return Contract(
        model=model,
        description="the next value of the first of four sensors",
        kind="sequence",
        columns=(
            Column(name="at", dtype="time"),
            *(Column(name=name, dtype="float", unit="°C", minimum=-100.0, maximum=100.0) for name in names),
        ),
        key=Key(time="at"),
        target=names[0],
        features=names,
        steps=STEPS,
        monitored=tuple(Monitored(name=name, column=name, transform="last_value") for name in names),
    )


def build_rows(count: int) -> NDArray[np.float64]:
    """Rows `(count, 24, 4)` within the contract's bounds, with as many digits as a sensor gives."""
    return np.random.default_rng(7).normal(20.0, 5.0, (count, STEPS, FEATURES)).round(2)


def ensure_model() -> tuple[Path, Path]:
    """The Keras file and the ONNX file of the LSTM, made by a process of its own where they are missing."""
    keras_path, onnx_path = FOLDER / "lstm.keras", FOLDER / "lstm.onnx"
    if not onnx_path.exists():
        FOLDER.mkdir(exist_ok=True)
        print("making the model", flush=True)
        command = [sys.executable, "-m", "benchmarks.lstm", str(keras_path), str(onnx_path)]
        subprocess.run(command, check=True, cwd=ROOT)
    return keras_path, onnx_path


def build_version_files(model: str) -> VersionFiles:
    """The files of one version."""
    keras_path, onnx_path = ensure_model()
    contract = build_bench_contract(model)
    rows = build_rows(500)
    names = [monitored.name for monitored in contract.monitored]
    monitored = build_monitored(contract, rows.astype(np.float32))
    reference = build_reference(monitored, names, ["°C"] * len(names), window_sizes=(50, 500))
    return VersionFiles(
        keras_path=keras_path,
        onnx_path=onnx_path,
        contract=contract.model_dump(mode="json"),
        reference=reference.model_dump(mode="json"),
        evaluation={"sample_rows": rows[:4].tolist()},
    )


def fill_cache(settings: Settings, models: Sequence[str]) -> None:
    """Put version 1 of each model into the cache of versions, as what served last."""
    import orjson

    settings.versions_folder.mkdir(parents=True)
    for model in models:
        folder = settings.versions_folder / model / "1"
        folder.mkdir(parents=True)
        write_files(folder, build_version_files(model))
    resolved = {model: {"target": "Production", "version": 1} for model in models}
    (settings.versions_folder / "resolved.json").write_bytes(orjson.dumps(resolved))


def register_version(connections: Connections, model: str, files: VersionFiles) -> int:
    """Log and register one more version of the model."""
    run_id = connections.tracking.start_run(model, None, {})
    connections.tracking.activate()
    source = log_version(run_id, files, input_shape=(STEPS, FEATURES), output_shape=(1,), name=model)
    connections.tracking.finish_run(run_id, "FINISHED")
    return connections.registry.register(model, run_id, source, {}).version


@dataclass(frozen=True)
class Process:
    """A running server: its address and the process that was started."""

    address: str
    popen: subprocess.Popen[bytes]

    def measure_rss_mb(self) -> float:
        """Resident memory of the process and all its descendants, shared pages counted once (PSS where known)."""
        root = psutil.Process(self.popen.pid)
        return sum(_measure_bytes(process) for process in [root, *root.children(recursive=True)]) / 2**20


def _measure_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, psutil.Error):
        return int(process.memory_info().rss)


@contextmanager
def running_platform(model: str, versions: int) -> Iterator[tuple[Connections, list[int]]]:
    """Database and tracking with that many registered versions of the model; nothing is in Production yet."""
    # The embedded database runs as a user of its own where this is root: pytest's kind of closed folder will not do.
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name:
        home = Path(name)
        home.chmod(0o755)
        port = find_free_port()
        settings = load_settings(
            home=home,
            artifacts=str(home / "mlruns"),
            tracking_port=port,
            tracking_uri=f"http://127.0.0.1:{port}",
            serving_port=find_free_port(),
            control_port=find_free_port(),
        )
        with running_database(home) as url:
            migrate_database(url)
            command, environment = build_server_command(settings, url)
            with started(command, environment, home / "tracking.log"):
                wait_for_tracking(settings.tracking_address, START_S)
                with open_connections(settings, url) as connections:
                    with connections.engine.begin() as connection:
                        write_contracts(connection, [build_bench_contract(model)])
                    os.environ[TOKEN_VARIABLE] = make_token(connections.engine)
                    files = build_version_files(model)
                    yield connections, [register_version(connections, model, files) for _ in range(versions)]


def make_token(engine: Engine) -> str:
    """A token that may predict."""
    with engine.begin() as connection:
        return create_token(connection, "benchmark", Role.VIEWER, created_by="benchmark", lifetime_days=1)


@contextmanager
def running_serving(settings: Settings, database_url: str) -> Iterator[Process]:
    """`millrace serve` with these settings."""
    environment = os.environ | {
        "MILLRACE_HOME": str(settings.home),
        "DATABASE_URL": database_url,
        "MLFLOW_TRACKING_URI": settings.tracking_address,
        "MILLRACE_SERVING_PORT": str(settings.serving_port),
        "MILLRACE_CONTROL_PORT": str(settings.control_port),
    }
    with started([sys.executable, "-m", "cli.main", "serve"], environment, settings.home / "serve.log") as popen:
        yield Process(settings.serving_address, popen)


@contextmanager
def started(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, ended with all its group."""
    with log.open("ab") as output:
        popen = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield popen
    finally:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def wait_for(url: str, popen: subprocess.Popen[bytes], *, until: str = "", timeout_s: float = START_S) -> None:
    """Wait until a GET of `url` is answered with 200 and `until` is in the answer."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and popen.poll() is None:
        try:
            answer = httpx.get(url, timeout=5)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200 and until in answer.text:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{url} does not answer as it should; process: {popen.poll()}")


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
