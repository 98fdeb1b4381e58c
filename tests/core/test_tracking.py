import math
import os
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from sqlalchemy import make_url

from core.database import build_libpq_url
from core.errors import ArtifactNotFound, TrackingUnavailable
from core.local_platform import build_tracking_process
from core.principals import Role
from core.registry import Registry
from core.settings import load_settings
from core.supervision import Supervisor
from core.tracking import TRAINING_TAG, Tracking
from tests.conftest import find_free_port
from tests.control.roles import build_token
from tests.control.running import controlling


@pytest.fixture(scope="module")
def client(tracking_server: str) -> MlflowClient:
    return MlflowClient(tracking_server, tracking_server)


@pytest.fixture
def run_id(tracking: Tracking) -> str:
    return tracking.start_run("tracking", None, {"millrace.cause": "hand"})


# --- runs --------------------------------------------------------------------------------------------------------


def test_run_is_started_logged_to_and_finished(tracking: Tracking, client: MlflowClient, run_id: str) -> None:
    tracking.log_parameters(run_id, {"steps": 24, "seed": 7} | {f"p{number}": number for number in range(150)})
    tracking.log_metrics(run_id, {"holdout_mae": 1.5, "ratio": math.nan})
    tracking.set_tags(run_id, {"millrace.version": "3"})
    tracking.finish_run(run_id, "FINISHED")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.params["steps"], run.data.params["p149"]) == ("24", "149")
    assert run.data.metrics["holdout_mae"] == 1.5
    assert math.isnan(run.data.metrics["ratio"])
    assert (run.data.tags["millrace.cause"], run.data.tags["millrace.version"]) == ("hand", "3")


def test_history_of_metrics_keeps_every_epoch(tracking: Tracking, client: MlflowClient, run_id: str) -> None:
    loss = [1 / (epoch + 1) for epoch in range(700)]
    tracking.log_metric_history(run_id, {"loss": loss, "validation_loss": [2 * value for value in loss]})
    logged = client.get_metric_history(run_id, "validation_loss")
    assert {entry.step: entry.value for entry in logged} == {step: 2 * value for step, value in enumerate(loss, 1)}


def test_daily_values_are_logged_once_under_their_day(tracking: Tracking, client: MlflowClient, run_id: str) -> None:
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    for _ in range(2):
        tracking.log_daily_metric(run_id, "realised_mae", list(zip(days, (1.5, 2.5), strict=True)))
    logged = client.get_metric_history(run_id, "realised_mae")
    first = (days[0] - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert sorted((entry.step, entry.value) for entry in logged) == [(first, 1.5), (first + 1, 2.5)]
    assert {entry.timestamp for entry in logged} == {int(day.timestamp() * 1000) for day in days}


def test_run_that_mlflow_projects_made_is_gone_on_with(tracking: Tracking, client: MlflowClient) -> None:
    given = client.create_run(tracking.ensure_experiment("tracking")).info.run_id
    assert tracking.start_run("tracking", given, {TRAINING_TAG: "t1"}) == given
    run = client.get_run(given)
    assert (run.info.status, run.data.tags[TRAINING_TAG]) == ("RUNNING", "t1")


def test_experiment_is_made_once(tracking: Tracking) -> None:
    name = f"experiment_{uuid.uuid4().hex[:8]}"
    assert tracking.ensure_experiment(name) == tracking.ensure_experiment(name)


def test_dataset_of_a_run_has_our_digest(tracking: Tracking, client: MlflowClient, run_id: str) -> None:
    digest = uuid.uuid4().hex * 2
    tracking.log_dataset(
        run_id,
        name="prices",
        digest=digest,
        source=f"mlflow-artifacts:/snapshots/{digest}.parquet",
        rows=3_000,
        columns={"Close": "double"},
        context="training",
    )
    inputs = client.get_run(run_id).inputs
    assert inputs is not None
    (entry,) = inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("prices", digest[:36])
    assert digest in (entry.dataset.profile or "")
    assert "3000" in (entry.dataset.profile or "")
    assert digest in entry.dataset.source
    assert '"Close"' in (entry.dataset.schema or "")
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training"}


def test_runs_of_a_training_that_is_over_are_reaped(tracking: Tracking, client: MlflowClient) -> None:
    experiment = f"experiment_{uuid.uuid4().hex[:8]}"
    left, done, other = (tracking.start_run(experiment, None, {TRAINING_TAG: name}) for name in ("t1", "t1", "t2"))
    tracking.finish_run(done, "FINISHED")
    before_our_code = client.create_run(tracking.ensure_experiment(experiment)).info.run_id
    client.log_param(before_our_code, "training", "t1")
    assert sorted(tracking.reap_runs(experiment, "t1")) == sorted([left, before_our_code])
    states = {run: client.get_run(run).info.status for run in (left, before_our_code, done, other)}
    assert states == {left: "KILLED", before_our_code: "KILLED", done: "FINISHED", other: "RUNNING"}
    assert tracking.reap_runs(experiment, "t1") == []
    assert tracking.reap_runs("never_made", "t1") == []


def test_run_that_made_the_version_ends_as_finished_though_its_process_was_killed(
    tracking: Tracking, client: MlflowClient
) -> None:
    experiment = f"experiment_{uuid.uuid4().hex[:8]}"
    made, killed = (tracking.start_run(experiment, None, {TRAINING_TAG: "t1"}) for _ in range(2))
    tracking.reap_runs(experiment, "t1")
    assert tracking.reap_runs(experiment, "t1", made) == [made]
    assert [client.get_run(run).info.status for run in (made, killed)] == ["FINISHED", "KILLED"]
    assert tracking.reap_runs(experiment, "t1", made) == []


def test_tracking_that_is_away_says_so(tmp_path: Path) -> None:
    away = Tracking(f"http://127.0.0.1:{find_free_port()}")
    file = tmp_path / "file"
    file.write_bytes(b"rows")
    with pytest.raises(TrackingUnavailable):
        away.start_run("tracking", None, {})
    with pytest.raises(TrackingUnavailable):
        away.store_file(file, "file")
    with pytest.raises(TrackingUnavailable):
        away.fetch_file("mlflow-artifacts:/snapshots/file", tmp_path / "fetched")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- files -------------------------------------------------------------------------------------------------------


def test_artifacts_of_a_run_are_found_within_a_size(tracking: Tracking, run_id: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes(b"<p>fine</p>")
    tracking.log_artifact(run_id, tmp_path / "report.html", "checks/1")
    tracking.log_document(run_id, {"outcome": "promote"}, "verdict.json")
    assert tracking.find_artifact(run_id, "checks/1/report.html", 100) == b"<p>fine</p>"
    assert b"promote" in (tracking.find_artifact(run_id, "verdict.json", 100) or b"")
    assert tracking.find_artifact(run_id, "checks/1/report.html", 10) is None
    assert tracking.find_artifact(run_id, "checks/1/other.html", 100) is None
    assert tracking.find_artifact(run_id, "checks/1", 100) is None
    assert tracking.find_artifact(uuid.uuid4().hex, "verdict.json", 100) is None


def test_stored_file_comes_back_as_it_was(tracking: Tracking, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "draft.parquet").write_bytes(content)
    name = f"{uuid.uuid4().hex}.parquet"
    uri = tracking.store_file(tmp_path / "draft.parquet", name)
    assert uri == f"mlflow-artifacts:/snapshots/{name}"
    assert tracking.store_file(tmp_path / "draft.parquet", name) == uri
    tracking.fetch_file(uri, tmp_path / "fetched.parquet")
    assert (tmp_path / "fetched.parquet").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draft.parquet", "fetched.parquet"]


def test_file_that_is_not_kept_is_named_and_leaves_nothing_half_written(tracking: Tracking, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match=r"missing\.parquet"):
        tracking.fetch_file("mlflow-artifacts:/snapshots/missing.parquet", tmp_path / "fetched")
    assert list(tmp_path.iterdir()) == []


# --- S3 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(scope="module")
def s3_tracking(database_url: str, s3_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server with a store of its own and artifacts on S3; only it has the keys."""
    request = urllib.request.Request(f"http://127.0.0.1:{s3_port}/artifacts", method="PUT")
    urllib.request.urlopen(request).close()  # noqa: S310  # the test's own server
    with psycopg.connect(build_libpq_url(database_url), autocommit=True) as connection:
        connection.execute("CREATE DATABASE mlflow_on_s3")
    store = make_url(database_url).set(database="mlflow_on_s3").render_as_string(hide_password=False)
    port = find_free_port()
    settings = load_settings(
        home=tmp_path_factory.mktemp("home"),
        tracking_port=port,
        artifacts="s3://artifacts/millrace",
        mlflow_database_url=SecretStr(store),
        tracking_allowed_hosts="tracking:5000",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
        server = Supervisor([build_tracking_process(settings, database_url)])
    server.start(120)
    yield settings.tracking_address
    server.stop()


@pytest.fixture
def contacted_ports(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The ports that this process connects to while the test runs."""
    ports: set[int] = set()
    connect = socket.socket.connect

    def watch(self: socket.socket, address: tuple[str, int]) -> None:
        ports.add(address[1])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watch)
    return ports


def test_files_on_s3_pass_through_the_tracking_server_alone(
    s3_tracking: str, s3_port: int, contacted_ports: set[int], tmp_path: Path
) -> None:
    tracking, registry = Tracking(s3_tracking), Registry(s3_tracking)
    run_id = tracking.start_run("prices", None, {})
    (tmp_path / "contract.json").write_text("{}")
    tracking.log_artifact(run_id, tmp_path / "contract.json", "version")
    version = registry.register("prices", run_id, f"runs:/{run_id}/version", {}).version
    folder = tmp_path / "version"
    folder.mkdir()
    registry.download("prices", version, folder)
    assert (folder / "contract.json").read_text() == "{}"
    uri = tracking.store_file(tmp_path / "contract.json", "rows.parquet")
    tracking.fetch_file(uri, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_text() == "{}"
    with pytest.raises(ArtifactNotFound):
        tracking.fetch_file(uri.replace("rows", "missing"), tmp_path / "missing")
    assert s3_port not in contacted_ports
    assert contacted_ports
    listed = urllib.request.urlopen(f"http://127.0.0.1:{s3_port}/artifacts").read().decode()  # the test's own server
    assert "millrace/snapshots/rows.parquet" in listed
    assert f"{run_id}/artifacts/version/contract.json" in listed


def test_files_on_s3_pass_through_the_door_for_mlflows_own_client(
    s3_tracking: str,
    s3_port: int,
    contacted_ports: set[int],
    migrated_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "large.bin").write_bytes(b"y" * 3_000_000)
    with controlling(tmp_path / "home", migrated_database_url, s3_tracking) as running:
        door = f"{running.address}/mlflow"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", door)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", build_token(Role.OPERATOR))
        monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
        monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "1000000")
        operator = MlflowClient(door, door)
        run = operator.create_run("0")
        operator.log_artifact(run.info.run_id, str(tmp_path / "large.bin"))
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", build_token(Role.VIEWER))
        fetched = MlflowClient(door, door).download_artifacts(run.info.run_id, "large.bin", str(tmp_path / "home"))
    assert Path(fetched).read_bytes() == b"y" * 3_000_000
    assert s3_port not in contacted_ports


_SEARCH = "api/2.0/mlflow/registered-models/search"


def _ask(uri: str, host: str) -> int:
    request = urllib.request.Request(f"{uri}/{_SEARCH}", headers={"Host": host})  # noqa: S310  # the test's own server
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310  # the test's own server
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_server_answers_to_the_hosts_that_the_setting_names_and_to_its_own(s3_tracking: str) -> None:
    own = s3_tracking.removeprefix("http://")
    assert {host: _ask(s3_tracking, host) for host in ("tracking:5000", own, "evil.example", "tracking:80")} == {
        "tracking:5000": 200,
        own: 200,
        "evil.example": 403,
        "tracking:80": 403,
    }
