"""The application on a real port: in a thread of the test's process, or in a process of its own that can be killed."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from core.contracts import write_contracts
from core.settings import Settings, load_settings
from serving.app import create_app
from serving.server import build_server
from tests.accounts import HEADERS, add_test_token
from tests.serving.folder_registry import FolderRegistry
from tests.serving.onnx_models import build_contract

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running application."""

    address: str
    client: httpx.Client
    registry: FolderRegistry
    settings: Settings
    database_url: str

    def predict(self, body: object, model: str = "prices") -> httpx.Response:
        return self.client.post(f"/models/{model}/predict", json=body)

    def get_version(self, model: str) -> int | None:
        response = self.client.get(f"/models/{model}")
        return response.json()["version"] if response.status_code == 200 else None

    def wait_for_version(self, model: str, version: int | None) -> None:
        wait_until(lambda: self.get_version(model) == version)


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come to hold within {timeout_s} s")
        time.sleep(0.02)


def build_settings(folder: Path, port: int, **overrides: object) -> Settings:
    fields = {"home": folder / "home", "follow_interval_s": 0.1, "serving_port": port} | overrides
    fields.setdefault("control_url", f"http://127.0.0.1:{find_free_port()}")
    return load_settings(**fields)


def declare(database_url: str, *models: str) -> None:
    """Write the contracts that the platform writes when it starts."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        write_contracts(connection, [build_contract(model) for model in models])
    engine.dispose()


@contextmanager
def serving(
    folder: Path,
    database_url: str,
    registry: FolderRegistry,
    *,
    models: tuple[str, ...] = ("prices",),
    **overrides: object,
) -> Iterator[Served]:
    """The application in a thread, `models` declared."""
    if models:
        declare(database_url, *models)
    settings = build_settings(folder, find_free_port(), **overrides)
    server = build_test_server(settings, database_url, registry)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    address = settings.serving_address
    try:
        with httpx.Client(base_url=address, headers=HEADERS, timeout=TIMEOUT_S) as client:
            wait_until(lambda: server.started)
            yield Served(address, client, registry, settings, database_url)
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_S)
        if thread.is_alive():
            raise TimeoutError("the server did not stop")


@contextmanager
def serving_process(
    folder: Path, database_url: str, registry: FolderRegistry, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """The application in a process of its own; it is killed at the end, if it is still there."""
    with (folder / "serving.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.running", str(folder), str(registry.folder), str(port)],
            env=os.environ | {"DATABASE_URL": database_url},
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(TIMEOUT_S)


def build_test_server(settings: Settings, database_url: str, registry: FolderRegistry) -> uvicorn.Server:
    # Where the database is away, the process knows the token from before.
    with suppress(OperationalError):
        add_test_token(database_url)
    app = create_app(settings, database_url, open_registry=lambda _: registry)
    return build_server(app, settings)


def main() -> None:
    folder, registry, port = sys.argv[1:]
    settings = build_settings(Path(folder), int(port), database_url=None)
    build_test_server(settings, os.environ["DATABASE_URL"], FolderRegistry(Path(registry))).run()


if __name__ == "__main__":
    main()
