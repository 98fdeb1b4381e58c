"""Messages from real brokers into the store: what they mean, and that none is lost or stored twice."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine

from core.contract import Contract
from core.data_errors import BrokerUnavailable
from core.errors import SettingsRejected
from core.settings import load_settings
from core.subscribers import load_subscribers
from ingestion.broker_connection import BrokerConnection, build_broker
from ingestion.messages import Feed
from ingestion.store import load_observations
from tests.ingestion.brokers import RunningBroker, running_embedded, running_mosquitto
from tests.ingestion.publishing import TIMEOUT_S, publish, subscribed
from tests.ingestion.series import build_fleet_contract, count_rows
from tests.processes import wait_until
from workloads.declaration import Subscription

PASSWORD = "a-password-of-the-test"
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_embedded(tmp_path_factory.mktemp("amqtt")) as broker:
        yield broker


@pytest.fixture(params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest) -> RunningBroker:
    found: RunningBroker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def contract(model: str) -> Contract:
    return build_fleet_contract(model)


def build_feeds(contract: Contract) -> list[Feed]:
    root = contract.model
    return [
        Feed(contract, Subscription(f"{root}/{{machine}}")),
        Feed(contract, Subscription(f"{root}/{{machine}}/pair", payload="array", columns=("at", "value"))),
        Feed(contract, Subscription(f"{root}/{{machine}}/value", "value", columns=("value",), time_from="arrival")),
    ]


def reading(contract: Contract, number: int, machine: str = "m1") -> tuple[str, bytes]:
    at = (START + timedelta(minutes=5 * number)).isoformat()
    return f"{contract.model}/{machine}", orjson.dumps({"at": at, "value": number})


def test_every_kind_of_payload_becomes_a_row(engine: Engine, contract: Contract, broker: RunningBroker) -> None:
    root = contract.model
    before = datetime.now(UTC)
    with subscribed(engine, broker.describe(root), build_feeds(contract)) as (_, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        publish(
            broker.describe(root),
            [
                (f"{root}/m1", b'{"at": "2024-01-01T00:00:00Z", "value": 1.5}'),
                (f"{root}/m2/pair", b'["2024-01-01T00:05:00Z", 2.5]'),
                (f"{root}/m3/value", b"3.5"),
                (f"{root}/m3/other", b"4.5"),
            ],
        )
        wait_until(lambda: count_rows(engine, root) == 3, TIMEOUT_S)

    with engine.connect() as connection:
        frame = load_observations(connection, contract)
        states = {state.client_id: state for state in load_subscribers(connection)}
    assert list(frame["machine"]) == ["m1", "m2", "m3"]
    assert list(frame["value"]) == [1.5, 2.5, 3.5]
    assert list(frame["at"][:2]) == [START, START + timedelta(minutes=5)]
    arrived_at = frame["at"][2]
    assert before - timedelta(minutes=5) < arrived_at <= datetime.now(UTC)
    assert arrived_at.timestamp() % 300 == 0
    assert states[root].is_live


def test_protocol_is_5_where_the_broker_has_it(mosquitto: RunningBroker, embedded: RunningBroker, model: str) -> None:
    for running, version in ((mosquitto, "5"), (embedded, "3.1.1")):
        connection = BrokerConnection(replace(running.describe(model), is_old=False), ["x/+"])
        assert connection.version == version
        connection.close()


# --- who may, and how it is kept secret --------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[RunningBroker, Path]]:
    """A Mosquitto that asks for a password over TLS, and the certificate that it is trusted by."""
    if shutil.which("openssl") is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("openssl or mosquitto_passwd is not installed")
    certificate, key, users = tmp_path / "broker.pem", tmp_path / "broker.key", tmp_path / "users"
    subject = ["-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files], check=True, capture_output=True
    )
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "sensor", PASSWORD], check=True, capture_output=True)
    access = [
        "listener PORT 127.0.0.1",
        "allow_anonymous false",
        f"password_file {users}",
        f"certfile {certificate}",
        f"keyfile {key}",
    ]
    with running_mosquitto(tmp_path, *access) as broker:
        yield broker, certificate


# paho leaves the socket of a TLS handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broker_of_the_settings_is_reached_with_password_and_tls(
    guarded: tuple[RunningBroker, Path], model: str
) -> None:
    broker, certificate = guarded
    address = f"127.0.0.1:{broker.port}"
    settings = load_settings(
        mqtt_url=f"mqtts://sensor:{PASSWORD}@{address}", mqtt_ca_file=certificate, mqtt_client_id=model
    )
    described = build_broker(settings)

    BrokerConnection(described, ["x/+"]).close()

    assert PASSWORD not in f"{described} {described!r} {settings!r}"
    for refused in (
        replace(described, password="not-the-password"),
        replace(described, username=None, password=None),
        replace(described, ca_file=None),
        replace(described, is_encrypted=False),
    ):
        with pytest.raises(BrokerUnavailable) as error:
            BrokerConnection(refused, ["x/+"])
        assert PASSWORD not in error.value.sentence
        assert "not-the-password" not in error.value.sentence


@pytest.mark.parametrize("url", ["http://host", "mqtt://", "mqtt://u:secret-word@host:99999999", "mqtt://h/path"])
def test_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsRejected, match="MILLRACE_MQTT_URL") as error:
        load_settings(mqtt_url=url)
    assert "secret-word" not in error.value.sentence


def test_default_broker_is_the_embedded_one() -> None:
    broker = build_broker(load_settings(mqtt_port=1999))
    assert (broker.host, broker.port, broker.is_old) == ("127.0.0.1", 1999, True)
