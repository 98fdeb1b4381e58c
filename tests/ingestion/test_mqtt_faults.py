"""What is pulled away from under a stream, and that afterwards every row is there, once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine, text

from core.database import create_database_engine, migrate_database
from core.embedded_database import EmbeddedDatabase
from ingestion.importing import import_file
from ingestion.messages import Feed
from tests.conftest import REPOSITORY
from tests.ingestion.brokers import RunningBroker, running_embedded, running_mosquitto
from tests.ingestion.publishing import TIMEOUT_S, publish, subscribed
from tests.ingestion.series import count_rows, load_rejected
from tests.processes import wait_until
from workloads.telemetry.sample import write_sample
from workloads.telemetry.workload import WORKLOAD

MODEL = WORKLOAD.name
CONTRACT = WORKLOAD.build_contract()
FEEDS = [Feed(CONTRACT, subscription) for subscription in WORKLOAD.subscriptions]
CLIENT = "millrace-ingest"
START = datetime(2024, 1, 1, tzinfo=UTC)
MACHINES = 7


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with running_mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def engine(migrated_database_url: str) -> Iterator[Engine]:
    engine = create_database_engine(migrated_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def own_database(open_folder: Path) -> Iterator[EmbeddedDatabase]:
    """A PostgreSQL that the test may kill."""
    server = EmbeddedDatabase(open_folder)
    server.start()
    migrate_database(server.url)
    yield server
    server.stop()


def build_messages(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    """Message n is the reading n of one of the machines; no two have the same key."""
    messages = []
    for number in range(first, first + count):
        at = START + timedelta(minutes=5 * (number // MACHINES))
        row = {"time": at.isoformat(), "temperature": number / 100}
        messages.append((f"telemetry/m{number % MACHINES}", orjson.dumps(row)))
    return messages


def load_numbers(engine: Engine) -> list[int]:
    """The number of the message that each stored row was made from, in order."""
    query = text(f"SELECT round(temperature * 100)::int FROM observations_{MODEL} ORDER BY 1")  # noqa: S608 - own name
    with engine.connect() as connection:
        return list(connection.scalars(query))


@contextmanager
def ingesting(url: str, broker: RunningBroker, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`millrace ingest mqtt` as a process of its own."""
    environment = os.environ | {
        "DATABASE_URL": url,
        "MILLRACE_HOME": str(home),
        "MILLRACE_MQTT_URL": f"mqtt://127.0.0.1:{broker.port}",
        "MILLRACE_MQTT_CLIENT_ID": CLIENT,
    }
    command = [sys.executable, "-m", "cli.main", "ingest", "mqtt"]
    with (home / "ingest.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _has_rows(engine: Engine, least: int) -> bool:
    return count_rows(engine, MODEL) >= least


def replay(path: Path, broker: RunningBroker, home: Path, *options: str) -> str:
    """What `millrace replay` prints."""
    environment = os.environ | {"MILLRACE_HOME": str(home), "MILLRACE_MQTT_URL": f"mqtt://127.0.0.1:{broker.port}"}
    command = [sys.executable, "-m", "cli.main", "replay", str(path), "--model", MODEL, *options]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout


def create_session(engine: Engine, broker: RunningBroker) -> None:
    """Let the broker know the subscriber, so that it keeps what comes while the subscriber is away."""
    with subscribed(engine, broker.describe(CLIENT), FEEDS) as (_, said):
        wait_until(lambda: bool(said), TIMEOUT_S)


def test_killed_subscriber_loses_no_message_and_stores_none_twice(
    migrated_database_url: str, engine: Engine, broker: RunningBroker, tmp_path: Path
) -> None:
    create_session(engine, broker)
    publishing = threading.Thread(target=publish, args=(broker.describe("x"), build_messages(8_000)))
    publishing.start()
    killed_at = []
    for least in (1, 2_500):
        with ingesting(migrated_database_url, broker, tmp_path) as process:
            wait_until(partial(_has_rows, engine, least), TIMEOUT_S)
            process.send_signal(signal.SIGKILL)
            process.wait()
        killed_at.append(count_rows(engine, MODEL))
    with ingesting(migrated_database_url, broker, tmp_path) as process:
        wait_until(lambda: count_rows(engine, MODEL) >= 8_000, TIMEOUT_S)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    publishing.join(TIMEOUT_S)

    assert killed_at[0] < 8_000
    assert load_numbers(engine) == list(range(8_000))
    assert load_rejected(engine, MODEL) == []


def test_killed_database_stops_the_stream_and_loses_no_message(
    own_database: EmbeddedDatabase, broker: RunningBroker
) -> None:
    engine = create_database_engine(own_database.url)
    with subscribed(engine, broker.describe(CLIENT), FEEDS) as (subscriber, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        publishing = threading.Thread(target=publish, args=(broker.describe("x"), build_messages(6_000)))
        publishing.start()
        wait_until(lambda: subscriber.taken.messages >= 500, TIMEOUT_S)
        pid = own_database.find_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        publishing.join(TIMEOUT_S)
        wait_until(lambda: any("waiting for the database" in sentence for sentence in said), TIMEOUT_S)
        acknowledged = subscriber.taken.messages
        own_database.ensure_running()
        wait_until(lambda: subscriber.taken.messages >= 6_000, TIMEOUT_S)

    assert acknowledged < 6_000
    assert load_numbers(engine) == list(range(6_000))
    assert load_rejected(engine, MODEL) == []
    assert own_database.url.partition("@")[0].rpartition(":")[2] not in " ".join(said)
    engine.dispose()


def test_restarted_broker_delivers_what_waited_for_the_subscriber(engine: Engine, broker: RunningBroker) -> None:
    create_session(engine, broker)
    publish(broker.describe("x"), build_messages(5_000))
    broker.stop()
    broker.start()

    with subscribed(engine, broker.describe(CLIENT), FEEDS) as (subscriber, _):
        wait_until(lambda: subscriber.taken.messages >= 5_000, TIMEOUT_S)

    assert load_numbers(engine) == list(range(5_000))


def test_broker_that_ends_in_mid_stream_is_waited_for(engine: Engine, broker: RunningBroker) -> None:
    with subscribed(engine, broker.describe(CLIENT), FEEDS) as (_, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        publish(broker.describe("x"), build_messages(1_000))
        broker.stop()
        wait_until(lambda: any("waiting for the broker" in sentence for sentence in said), TIMEOUT_S)
        broker.start()
        publish(broker.describe("x"), build_messages(1_000, first=1_000))
        wait_until(lambda: count_rows(engine, MODEL) >= 2_000, TIMEOUT_S)

    assert load_numbers(engine) == list(range(2_000))


@pytest.mark.parametrize("which", ["mosquitto", "embedded"])
def test_unreadable_messages_are_rejected_between_good_ones_and_acknowledged(
    which: str, engine: Engine, tmp_path: Path
) -> None:
    bad = [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"temperature": 1}',
        b'{"time": "2024-01-01", "temperature": "hot"}',
        b'{"time": "2024-01-01", "temperature": NaN}',
        b'{"time": "2124-01-01", "temperature": 1}',
        b'{"machine": "m9", "time": "2024-01-01", "temperature": 1}',
        b'{"time": "2024-01-01\\u0000", "temperature": 1}',
        b'{"time": "\\ud800", "temperature": 1}',
        b'{"time": "2024-01-01", "temperature": 1e999}',
        b"{" * 100_000,
        b'{"time": "2024-01-01", "temperature": 123456789012345678901234567890}',
    ]
    good = build_messages(300)
    mixed = [message for at, message in enumerate(good) for message in (("telemetry/m1", bad[at % len(bad)]), message)]
    running = running_mosquitto(tmp_path) if which == "mosquitto" else running_embedded(tmp_path)
    with running as broker, subscribed(engine, broker.describe(CLIENT), FEEDS) as (subscriber, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        publish(broker.describe("x"), mixed)
        wait_until(lambda: subscriber.taken.messages >= len(mixed), TIMEOUT_S)

    assert load_numbers(engine) == list(range(300))
    assert subscriber.taken.rows_rejected == 300
    with engine.connect() as connection:
        places = connection.execute(text("SELECT DISTINCT source_id, line FROM rejected_rows")).all()
    assert len(places) == 300


def test_messages_that_come_again_change_nothing(engine: Engine, broker: RunningBroker) -> None:
    messages = build_messages(700)
    with subscribed(engine, broker.describe(CLIENT), FEEDS) as (subscriber, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        for _ in range(2):
            publish(broker.describe("x"), messages)
        wait_until(lambda: subscriber.taken.messages >= 1_400, TIMEOUT_S)

    assert load_numbers(engine) == list(range(700))
    assert subscriber.taken.rows_new == 700


def test_row_that_only_the_database_refuses_is_rejected_alone(engine: Engine, broker: RunningBroker) -> None:
    with subscribed(engine, broker.describe(CLIENT), FEEDS) as (_, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        publish(broker.describe("x"), build_messages(1))
        wait_until(lambda: count_rows(engine, MODEL) == 1, TIMEOUT_S)
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE observations_{MODEL} ADD CHECK (temperature <> 0.5)"))
        publish(broker.describe("x"), build_messages(99, first=1))
        wait_until(lambda: count_rows(engine, MODEL) == 99 and bool(load_rejected(engine, MODEL)), TIMEOUT_S)

    assert load_numbers(engine) == [number for number in range(100) if number != 50]
    (rejected,) = load_rejected(engine, MODEL)
    assert rejected[3].startswith("the database does not take it")


def test_replayed_file_is_what_an_import_of_it_stores(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    write_sample(path, rows=200)
    with running_embedded(tmp_path) as broker, subscribed(engine, broker.describe(CLIENT), FEEDS) as (_, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        printed = replay(path, broker, tmp_path, "--speed", "1000000")
        wait_until(lambda: count_rows(engine, MODEL) == 200, TIMEOUT_S)

    assert printed.startswith("200 messages")
    again = import_file(engine, CONTRACT, path, name=path.name, actor="test")
    assert (again.rows_new, again.rows_changed, again.rows_unchanged) == (0, 0, 200)
