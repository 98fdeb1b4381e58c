"""`millrace tracking`: however it ends, MLflow's server ends with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.embedded_database import EmbeddedDatabase
from core.tracking_server import wait_for_tracking
from tests.conftest import REPOSITORY, SERVER_START_S, find_free_port

_END_S = 30.0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_tracking_ends_with_its_server(open_folder: Path, number: signal.Signals, code: int) -> None:
    port = find_free_port()
    environment = {"MILLRACE_HOME": str(open_folder), "MILLRACE_TRACKING_PORT": str(port)}
    with (open_folder / "tracking.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "tracking"],
            cwd=REPOSITORY,
            env={**os.environ, **environment, "MILLRACE_ARTIFACTS": str(open_folder / "mlruns")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_tracking(f"http://127.0.0.1:{port}", SERVER_START_S)
        process.send_signal(number)
        assert process.wait(_END_S) == code
        assert _is_free_within(port, _END_S)
    finally:
        process.kill()
        process.wait()
        EmbeddedDatabase(open_folder).stop()


def _is_free_within(port: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return True
        time.sleep(0.1)
    return False
