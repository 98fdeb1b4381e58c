"""One running platform for all journeys: `millrace up` with its artifacts on an S3 server."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import boto3
import numpy as np
import pytest
from botocore.client import BaseClient
from moto.server import ThreadedMotoServer

from ingestion.reading import read_columns
from tests.conftest import make_open_folder
from tests.journeys.running import MODEL, Platform
from tests.monitoring.receivers import PASSWORD, USER, Mailbox, running_mailbox
from workloads.catalogue import get_workload

logger = logging.getLogger(__name__)

BUCKET = "millrace-journeys"
_KEYS = {"AWS_ACCESS_KEY_ID": "a-key-of-the-tests", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests"}
_REGION = "us-east-1"


class S3Server:
    """An S3 server that can go away and come back at the same address, with what it holds."""

    def __init__(self) -> None:
        self._port = 0
        self._server: ThreadedMotoServer | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_away(self) -> bool:
        return self._server is None

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_address(s3_server: S3Server) -> str:
    return s3_server.address


@pytest.fixture(scope="session")
def s3(s3_address: str) -> BaseClient:
    """A client of the S3 server, with the bucket made."""
    client = boto3.client(
        "s3",
        endpoint_url=s3_address,
        aws_access_key_id=_KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=_KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=_REGION,
    )
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(scope="session")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mailbox, Path]]:
    """The mail server that the platform tells people by, and the authority of its certificate."""
    with running_mailbox(tmp_path_factory.mktemp("mail")) as running:
        yield running


@pytest.fixture(scope="session")
def mailbox(mail: tuple[Mailbox, Path]) -> Mailbox:
    """What people were sent."""
    return mail[0]


@pytest.fixture(scope="session")
def platform(s3: BaseClient, s3_address: str, mail: tuple[Mailbox, Path]) -> Iterator[Platform]:
    """The platform after its first start: sample data are in, a version is trained and serves.

    The keys of the S3 server are in the environment of `millrace up` alone; commands and clients have none.
    """
    folder = make_open_folder()
    started = Platform(
        folder,
        {
            **_KEYS,
            "AWS_DEFAULT_REGION": _REGION,
            "MLFLOW_S3_ENDPOINT_URL": s3_address,
            "MILLRACE_ARTIFACTS": f"s3://{BUCKET}/artifacts",
            "MILLRACE_SMTP_URL": f"smtp://{USER}:{quote(PASSWORD, safe='')}@localhost:{mail[0].port}",
            "MILLRACE_SMTP_CA_FILE": str(mail[1]),
            "MILLRACE_ALERT_MAIL_TO": "ops@example.org",
            "MILLRACE_SAMPLE_DATA": "true",
            "AUTO_TRAIN_ON_STARTUP": "true",
        },
    )
    started.start()
    try:
        logger.info("first start: %.0f s", started.wait_until_settled())
        yield started
    finally:
        started.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The last closes of the sample data `(steps,)`, in the unit of the price."""
    workload = get_workload(MODEL)
    contract = workload.build_contract()
    path: Path = tmp_path_factory.mktemp("sample") / "prices.csv"
    workload.load_function("sample")(path)
    closes = read_columns(contract, path, max_bytes=2**24)[contract.target].astype(np.float64)
    return [float(close) for close in closes[-contract.steps :]]
