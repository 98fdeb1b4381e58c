"""Real brokers for tests: Mosquitto where it is installed, and the embedded one everywhere."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.embedded_broker import is_broker_listening
from ingestion.broker_connection import Broker
from tests.conftest import REPOSITORY, find_free_port
from tests.processes import wait_until

START_S = 60.0


@dataclass
class RunningBroker:
    """A broker process that can be stopped, killed and started again on its port."""

    command: list[str]
    port: int
    log: Path
    is_old: bool = False
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=REPOSITORY, stdout=log, stderr=log)
        wait_until(lambda: is_broker_listening("127.0.0.1", self.port), START_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal and wait for that."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(START_S)
            self.process = None

    def describe(self, client_id: str) -> Broker:
        """The broker as a client of that id sees it."""
        return Broker("127.0.0.1", self.port, client_id, is_old=self.is_old)


def find_mosquitto() -> str:
    """The program; skips the test where it is not installed."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("Mosquitto is not installed; `apt-get install mosquitto` brings it")
    return found


def read_shipped_rules() -> str:
    """What `deploy/mosquitto.conf` says about keeping messages, without the places that are the container's."""
    places = ("listener", "password_file", "allow_anonymous", "persistence_location", "log_dest", "user")
    lines = (REPOSITORY / "deploy" / "mosquitto.conf").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith(places))


@contextmanager
def running_mosquitto(folder: Path, *extra: str) -> Iterator[RunningBroker]:
    """A Mosquitto with the shipped rules on a free port, for the length of the block."""
    program, port = find_mosquitto(), find_free_port()
    (folder / "kept").mkdir(mode=0o777)
    (folder / "kept").chmod(0o777)
    # As root it would become a user of its own, whom pytest's folders keep out.
    own_user = ["user root"] if os.getuid() == 0 else []
    access = list(extra) or [f"listener {port} 127.0.0.1", "allow_anonymous true"]
    config = folder / "mosquitto.conf"
    lines = [read_shipped_rules(), f"persistence_location {folder / 'kept'}/", *own_user, *access, ""]
    config.write_text("\n".join(lines).replace("PORT", str(port)), encoding="utf-8")
    broker = RunningBroker([program, "-c", str(config)], port, folder / "mosquitto.log")
    with _running(broker):
        yield broker


@contextmanager
def running_embedded(folder: Path) -> Iterator[RunningBroker]:
    """The broker of `millrace up` on a free port, for the length of the block."""
    port = find_free_port()
    program = f"from core.embedded_broker import run_embedded_broker; run_embedded_broker({port})"
    broker = RunningBroker([sys.executable, "-c", program], port, folder / "amqtt.log", is_old=True)
    with _running(broker):
        yield broker


@contextmanager
def _running(broker: RunningBroker) -> Iterator[None]:
    broker.start()
    try:
        yield
    finally:
        broker.stop(signal.SIGKILL)
