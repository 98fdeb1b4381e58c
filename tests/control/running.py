"""The control plane on a real port, in a thread of the test's process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from control.server import build_server
from core.connections import Connections, open_connections
from core.contracts import write_contracts
from core.settings import load_settings
from tests.accounts import HEADERS, add_test_token
from tests.conftest import find_free_port
from tests.control.roles import add_role_tokens
from workloads.catalogue import get_workload

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Controlled:
    """A running control plane and what it is connected to."""

    address: str
    client: httpx.Client
    connections: Connections
    app: FastAPI


@contextmanager
def controlling(folder: Path, database_url: str, tracking_address: str, **overrides: object) -> Iterator[Controlled]:
    """The control plane on that database and tracking server, for the length of the block."""
    fields = {"home": folder, "control_port": find_free_port(), "tracking_uri": tracking_address} | overrides
    settings = load_settings(**fields)
    add_test_token(database_url)
    add_role_tokens(database_url)
    with open_connections(settings, database_url) as connections:
        server = build_server(connections)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            _wait_until_started(server)
            with httpx.Client(base_url=settings.control_address, headers=HEADERS, timeout=TIMEOUT_S) as client:
                yield Controlled(settings.control_address, client, connections, server.app)
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_S)


def declare_prices(connections: Connections) -> None:
    """Write the contract that the platform writes when it starts."""
    with connections.engine.begin() as connection:
        write_contracts(connection, [get_workload("prices").build_contract()])


def _wait_until_started(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the control plane did not start")
        time.sleep(0.02)
