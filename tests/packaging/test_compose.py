"""The journey on the services of the compose file, run as processes against real PostgreSQL and an S3 server."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from botocore.client import BaseClient
from moto.server import ThreadedMotoServer

from core.embedded_database import running_database
from deploy import health
from tests.accounts import build_headers
from tests.conftest import find_free_port, make_open_folder
from tests.ingestion.brokers import running_embedded
from tests.packaging.local_services import PORTS, LocalServices
from workloads.catalogue import get_workload

ACCESS_KEY = "compose-test-key"
SECRET_KEY = "compose-test-secret"
BUCKET = "millrace"
FOLLOW_TIMEOUT_S = 30.0
WINDOW = [20_000.0 + 10.0 * day for day in range(30)]


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    """An S3 server with the bucket that the compose file's own server makes at its start."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    _connect(address).create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


@pytest.fixture(scope="module")
def services(s3_address: str) -> Iterator[LocalServices]:
    """All our services of the compose file, up and well."""
    folder = make_open_folder()
    with (
        running_database(folder / "database") as database_url,
        running_embedded(folder) as broker,
        LocalServices(folder, database_url, s3_address, ACCESS_KEY, SECRET_KEY, broker.port) as started,
    ):
        yield started
    shutil.rmtree(folder)


def _connect(address: str) -> BaseClient:
    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )


def test_composed_services_go_from_rows_to_a_served_prediction(
    services: LocalServices, s3_address: str, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.csv"
    get_workload("prices").load_function("sample")(prices)

    token = services.run("control", ["millrace", "tokens", "create", "journey", "--role", "operator"]).strip()
    with httpx.Client(base_url=services.address, headers=build_headers(token), timeout=30) as client:
        before = client.post("/models/prices/predict", json={"values": WINDOW})
        services.run("control", ["millrace", "ingest", "prices", str(prices)])
        services.run("worker", ["millrace", "train", "prices", "--wait", "--set", "max_epochs=4"])
        after = _wait_for_prediction(client)
        finding = json.loads(services.run("worker", ["millrace", "check", "prices", "--json"]))
        ready = client.get("/health/ready")
        # Control owns this route; serving forwards it.
        trainings = client.get("/trainings").json()
    stored = _connect(s3_address).list_objects_v2(Bucket=BUCKET, Prefix="artifacts/")["Contents"]

    assert before.status_code == 503
    assert (after["model"], after["version"]) == ("prices", 1)
    assert (finding["model"], finding["version"], finding["outcome"]) == ("prices", 1, "fine")
    assert ready.status_code == 200
    assert "prices" in str(trainings)
    assert [entry["Key"] for entry in stored if entry["Key"].endswith(".onnx")]
    assert [entry["Key"] for entry in stored if entry["Key"].endswith(".parquet")]


@pytest.mark.parametrize("name", PORTS)
def test_health_check_of_a_service_fails_when_it_is_gone(name: str, services: LocalServices) -> None:
    elsewhere = {variable: str(find_free_port()) for variable, _, _ in health.DOORS.values()}
    service = services.services[name]
    gone = dataclasses.replace(service, environment=service.environment | elsewhere)

    assert services.run_health_check(service) == 0
    assert services.run_health_check(gone) != 0


def _wait_for_prediction(client: httpx.Client) -> dict[str, object]:
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    while True:
        response = client.post("/models/prices/predict", json={"values": WINDOW})
        if response.status_code == 200 or time.monotonic() > deadline:
            response.raise_for_status()
            return dict(response.json())
        time.sleep(0.2)
