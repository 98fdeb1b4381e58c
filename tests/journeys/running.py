"""The whole platform as a person runs it: `millrace up` as a process, its commands, and requests to its address."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
from mlflow import MlflowClient

from core.database import build_libpq_url
from core.embedded_database import EmbeddedDatabase
from tests.accounts import HEADERS, TOKEN, TOKEN_VARIABLE, add_test_token
from tests.conftest import REPOSITORY, find_free_port

MODEL = "prices"
START_S = 900.0
STOP_S = 60.0
_LOOK_S = 0.1
_PORTS = ("MILLRACE_SERVING_PORT", "MILLRACE_CONTROL_PORT", "MILLRACE_TRACKING_PORT", "MILLRACE_MQTT_PORT")
Found = TypeVar("Found")


@dataclass
class Platform:
    """One folder with the platform on it; `environment` adds to what its process gets."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=lambda: {name: find_free_port() for name in _PORTS})
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['MILLRACE_SERVING_PORT']}"

    @property
    def tracking_address(self) -> str:
        return f"http://127.0.0.1:{self.ports['MILLRACE_TRACKING_PORT']}"

    @property
    def settings(self) -> dict[str, str]:
        """What a command needs in its environment to find this platform."""
        return {
            **os.environ,
            # `mlflow` and what it starts are found beside this Python.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "200",
            "MILLRACE_HOME": str(self.home),
            "MILLRACE_ARTIFACTS": str(self.folder / "mlruns"),
            TOKEN_VARIABLE: TOKEN,
            **{name: str(port) for name, port in self.ports.items()},
        }

    # --- the process ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start `millrace up`; what it prints goes to a file of this start alone."""
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "up"],
                cwd=REPOSITORY,
                env={**self.settings, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_settled(self) -> float:
        """Wait for the last line that a start prints; returns the seconds; raises RuntimeError if the process ends."""
        began = time.monotonic()

        def is_settled() -> bool:
            if self._running.poll() is not None:
                raise RuntimeError(f"`millrace up` ended with {self._running.returncode}:\n{self.read_output()}")
            return "Ctrl-C stops everything" in self.read_output()

        wait_for(is_settled, START_S, "`millrace up` prints where to look")
        add_test_token(EmbeddedDatabase(self.home).url)
        return time.monotonic() - began

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self._running.send_signal(signal.SIGINT)
        return self._running.wait(STOP_S)

    def kill(self) -> None:
        """End `millrace up` itself as a crash would."""
        self._running.kill()
        self._running.wait()

    def close(self) -> None:
        """Stop what runs still."""
        if self.process is not None and self.process.poll() is None:
            self.interrupt()
        EmbeddedDatabase(self.home).stop()

    def read_output(self) -> str:
        """What `millrace up` has printed since it was started."""
        return self._output.read_text(encoding="utf-8")

    def find_process(self, *words: str) -> int:
        """The number of the process below `millrace up` whose command line has these words."""
        found = [
            number
            for number, line in find_processes(self).items()
            # The guard of a process has its words too.
            if all(word in line for word in words) and "guard.py" not in line
        ]
        if len(found) != 1:
            raise LookupError(f"{words} names {len(found)} processes of {find_processes(self)}")
        return found[0]

    def find_postmaster(self) -> int:
        """The number of PostgreSQL's first process."""
        return int((self.home / "postgres" / "data" / "postmaster.pid").read_text(encoding="utf-8").split()[0])

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            raise RuntimeError("the platform was not started")
        return self.process

    @property
    def _output(self) -> Path:
        return self.folder / "up.log"

    # --- what it is asked ----------------------------------------------------------------------------------------

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """A `millrace` command against this platform."""
        return run_process([sys.executable, "-m", "cli.main", *arguments], {**self.settings, **environment})

    def run_json(self, *arguments: str) -> Any:
        """The JSON that a `millrace` command prints; raises RuntimeError if it fails."""
        done = self.run(*arguments, "--json")
        if done.returncode != 0:
            raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def post(self, path: str, body: object) -> httpx.Response:
        """The answer to a JSON document, asked for with the token of the tests."""
        return httpx.post(f"{self.address}{path}", json=body, headers=HEADERS, timeout=30)

    def predict(self, window: Sequence[float]) -> Any:
        """The answer of the model's own route."""
        response = self.post(f"/models/{MODEL}/predict", {"values": list(window)})
        response.raise_for_status()
        return response.json()

    def build_mlflow_client(self) -> MlflowClient:
        """MLflow's own client of this platform's tracking server."""
        return MlflowClient(tracking_uri=self.tracking_address, registry_uri=self.tracking_address)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the platform's database."""
        with psycopg.connect(build_libpq_url(EmbeddedDatabase(self.home).url)) as connection:
            return connection.execute(statement.encode()).fetchall()


def run_process(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end and keep what it printed."""
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def find_processes(platform: Platform) -> dict[int, str]:
    """Command lines of every process that has this platform's home in its environment or its command line."""
    mark = str(platform.home).encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            line = (folder / "cmdline").read_bytes()
            if mark in line or b"MILLRACE_HOME=" + mark in (folder / "environ").read_bytes():
                found[int(folder.name)] = line.replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_for(look: Callable[[], Found | None], timeout_s: float, what: str) -> Found:
    """Look until something true is found; raises TimeoutError that says `what` was waited for."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_LOOK_S)
    return found
