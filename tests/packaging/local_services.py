"""The services of the compose file as processes of this machine.

Commands, environments and health checks are those of the containers. Only values of variables are edited: a service's
name and port become an address of the loopback interface, PostgreSQL's become the embedded server's socket, and the
folder that is a volume there is a folder here.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import make_url

from core.supervision import build_guarded_command
from tests.conftest import find_free_port
from tests.packaging.compose import Service, load_services
from tests.packaging.locks import ROOT

HOME = "/var/lib/millrace"
PORTS = {"serving": "8000", "control": "8001", "tracking": "5000"}
START_TIMEOUT_S = 240.0
COMMAND_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 45.0
_LOOK_S = 0.5
_LOG_BYTES = 4_000


@dataclass
class LocalServices:
    """Our services, started in the order of the file; use it as a context."""

    folder: Path
    database_url: str
    s3_address: str
    access_key: str
    secret_key: str
    broker_port: int
    ports: dict[str, int] = field(default_factory=lambda: {name: find_free_port() for name in PORTS})
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        password = make_url(self.database_url).password
        values = {
            "POSTGRES_PASSWORD": password or "",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "MQTT_PASSWORD": "composed",
        }
        self.services = load_services(values)

    def __enter__(self) -> "LocalServices":
        try:
            for service in self.services.values():
                self.start(service)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where serving answers: the one published port."""
        return f"http://127.0.0.1:{self.ports['serving']}"

    def start(self, service: Service) -> None:
        """Start a service and wait until it is well, or has ended if it is one that ends; raises RuntimeError."""
        with self._log_path(service.name).open("ab") as log:
            process = subprocess.Popen(
                build_guarded_command(service.command),
                cwd=ROOT,
                env=self.build_environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[service.name] = process
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                if service.health is None and process.returncode == 0:
                    return
                break
            if service.health is not None and self.run_health_check(service) == 0:
                return
            time.sleep(_LOOK_S)
        raise RuntimeError(f"{service.name} did not start, exit code {process.poll()}:\n{self.read_log(service.name)}")

    def run_health_check(self, service: Service) -> int:
        """The exit code of the service's own health check."""
        return subprocess.run(
            service.health or [],
            cwd=ROOT,
            env=self.build_environment(service),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode

    def run(self, service: str, command: Sequence[str]) -> str:
        """Run a command in the environment of a service, as `docker compose exec` does; returns what it printed."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.build_environment(self.services[service]),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def build_environment(self, service: Service) -> dict[str, str]:
        """What the container's process would have in its environment, with this machine's addresses; nothing else."""
        home = self.folder / service.name
        home.mkdir(exist_ok=True)
        url = make_url(self.database_url)
        places = {
            "@postgres:5432/millrace": f"@/{url.database}?host={url.query['host']}&port={url.query['port']}",
            "s3:8333": self.s3_address.removeprefix("http://"),
            "mosquitto:1883": f"127.0.0.1:{self.broker_port}",
            HOME: str(home),
            "0.0.0.0": "127.0.0.1",  # noqa: S104  # replaced, not bound
            **{f"{name}:{port}": f"127.0.0.1:{self.ports[name]}" for name, port in PORTS.items()},
        }
        ports = {port: str(self.ports[name]) for name, port in PORTS.items()}
        environment = {key: ports.get(value) or _edit(value, places) for key, value in service.environment.items()}
        return environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin"}

    def read_log(self, name: str) -> str:
        """The end of what a service printed."""
        return self._log_path(name).read_text(encoding="utf-8", errors="replace")[-_LOG_BYTES:]

    def stop(self) -> None:
        """End every process, the last started first; what one leaves behind ends with it, as in a container."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log_path(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _edit(value: str, places: Mapping[str, str]) -> str:
    for there, here in places.items():
        value = value.replace(there, here)
    return value
