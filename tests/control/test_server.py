"""The control process: it keeps answering while a request waits, and ends cleanly."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from sqlalchemy import text

from tests.accounts import HEADERS, add_test_token
from tests.conftest import find_free_port
from tests.control.running import Controlled

_START_S = 60.0


def test_request_that_waits_for_the_database_holds_up_no_other(controlled: Controlled) -> None:
    answered: list[int] = []

    def ask() -> None:
        answered.append(controlled.client.get("/models/prices/findings").status_code)

    with controlled.connections.engine.begin() as connection:
        connection.execute(text("LOCK TABLE findings IN ACCESS EXCLUSIVE MODE"))
        waiting = threading.Thread(target=ask)
        waiting.start()
        time.sleep(0.3)
        for path in ("/health/live", "/trainings"):
            assert httpx.get(controlled.address + path, headers=HEADERS, timeout=2).status_code == 200
        assert answered == []
    waiting.join(10)
    assert answered == [200]


def test_process_answers_and_ends_on_sigterm(tmp_path: Path, platform_url: str) -> None:
    port = find_free_port()
    add_test_token(platform_url)
    program = "import sys; from control.server import run_control; from core.settings import load_settings; "
    program += "run_control(load_settings(), sys.argv[1])"
    environment = os.environ | {"MILLRACE_HOME": str(tmp_path), "MILLRACE_CONTROL_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-c", program, platform_url], env=environment)
    try:
        deadline = time.monotonic() + _START_S
        while not _is_alive(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert httpx.get(f"http://127.0.0.1:{port}/trainings", headers=HEADERS).json() == []
        process.send_signal(signal.SIGTERM)
        # The server ends with the signal that ended it.
        assert process.wait(15) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def _is_alive(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    except httpx.TransportError:
        return False
