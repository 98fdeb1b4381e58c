"""How fast messages become committed rows: Mosquitto, the subscriber as a process, PostgreSQL; counted in the table.

The messages wait in the subscriber's session before it starts, so that the publisher takes nothing from the machine.
The clock runs from the beginning of the first batch's transaction to the moment when all rows are counted; the messages
of the first batch, which were read before, do not count. Then a part of the messages is published again: each is a
duplicate, and none may become a row.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import psycopg

from core.database import build_libpq_url
from core.embedded_database import running_database
from core.settings import load_settings
from tests.conftest import REPOSITORY, make_open_folder
from tests.ingestion.brokers import RunningBroker, running_mosquitto
from tests.ingestion.publishing import publish

MESSAGES = 40_000
MOST_AGAIN = 5_000
MACHINES = 50
TIMEOUT_S = 300.0

_START = datetime(2024, 1, 1, tzinfo=UTC)
_CLIENT = load_settings().mqtt_client_id
Query = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True)
class MessageFigures:
    """Messages a second from broker to commit; acknowledged messages without a row; rows beyond one a message."""

    per_s: float
    lost: int
    duplicates: int


def measure_messages(count: int) -> MessageFigures:
    """Send that many messages through a Mosquitto and into a PostgreSQL, which are gone afterwards."""
    again = min(MOST_AGAIN, count)
    folder = make_open_folder()
    try:
        with running_database(folder) as url, running_mosquitto(folder) as broker:
            with _subscribing(url, broker, folder), _connected(url) as connection:
                _wait(connection, "SELECT count(*) FROM subscribers", 1)
            published = publish(broker.describe("publisher"), _build_messages(count))
            with _subscribing(url, broker, folder), _connected(url) as connection:
                _wait(connection, "SELECT count(*) FROM observations_telemetry", published)
                ended_at = datetime.now(UTC)
                row = connection.execute(
                    "SELECT received_at, rows_new FROM sources ORDER BY received_at LIMIT 1"
                ).fetchone()
                publish(broker.describe("publisher"), _build_messages(again))
                _wait(connection, "SELECT messages FROM subscribers", published + again)
                rows = _ask(connection, "SELECT count(*) FROM observations_telemetry")
                sent = _ask(connection, "SELECT count(DISTINCT temperature) FROM observations_telemetry")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if row is None or not isinstance(row[0], datetime):
        raise RuntimeError("no batch was stored")
    rate = (published - int(str(row[1]))) / (ended_at - row[0]).total_seconds()
    return MessageFigures(rate, lost=published - sent, duplicates=rows - sent)


def _build_messages(count: int) -> Iterator[tuple[str, bytes]]:
    """Message n is one reading of one machine; its temperature is its number, so that each can be told apart."""
    for number in range(count):
        at = _START + timedelta(minutes=5 * (number // MACHINES))
        row = {"time": at.isoformat(), "temperature": number / 1_000}
        yield f"telemetry/press_{number % MACHINES}", orjson.dumps(row)


@contextmanager
def _subscribing(url: str, broker: RunningBroker, folder: Path) -> Iterator[None]:
    environment = os.environ | {
        "DATABASE_URL": url,
        "MILLRACE_HOME": str(folder / "home"),
        "MILLRACE_MQTT_URL": f"mqtt://127.0.0.1:{broker.port}",
        "MILLRACE_LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "cli.main", "ingest", "mqtt"]
    with (folder / "ingest.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


@contextmanager
def _connected(url: str) -> Iterator[Query]:
    with psycopg.connect(build_libpq_url(url), autocommit=True) as connection:
        yield connection


def _wait(connection: Query, query: str, least: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while _ask(connection, query) < least:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{query}: {_ask(connection, query)} of {least} after {TIMEOUT_S:g} s")
        time.sleep(0.05)


def _ask(connection: Query, query: str) -> int:
    try:
        row = connection.execute(query).fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    return int(str(row[0])) if row else 0
