"""The ways to start a training, each from its request to what serves: the queue, the tracking server and both doors are
real. The first training runs in a child of its own, as does the one of `mlflow run`; the others in this process."""

import asyncio
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import mlflow
import psycopg
import pytest
import uvicorn
from mlflow import MlflowClient
from mlflow.exceptions import ExecutionException, MlflowException
from psycopg.sql import SQL, Identifier
from sqlalchemy import func, make_url, select, text

from core.connections import Connections
from core.database import build_libpq_url, migrate_database
from core.job_queue import QUEUES, build_queue_app
from core.model_directory import ModelDirectory
from core.project_backend import RequestedRun
from core.snapshots import load_snapshot
from core.tables.trainings import trainings
from core.trainings import Training, get_training
from jobs import project
from jobs import training as training_module
from jobs.checking import run_check
from jobs.retraining import schedule_trainings
from jobs.schedule import request_startup_trainings
from jobs.startup import declare_workloads
from jobs.tasks import add_tasks
from jobs.watching import WatchedJob
from serving.app import create_app
from tests.accounts import ACTOR, HEADERS, TOKEN
from tests.conftest import REPOSITORY, find_free_port
from tests.control.running import controlling
from tests.serving.running import build_settings, wait_until
from workloads.books.sample import write_sample as write_ratings
from workloads.catalogue import get_workload
from workloads.failures.sample import write_sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MODEL = "failures"
TIMEOUT_S = 600.0
CAR = {"unique_names": 3, "1_status_10": 0, "2_status_10": 12, "718_status_10": 13, "1_status_13": 2, "2_status_13": 0}
QUICK = {"epochs": "20", "batch_size": "128"}


@dataclass(frozen=True)
class Platform:
    """Serving and control on real ports, a database of their own, and a queue that is worked off on demand."""

    connections: Connections
    address: str
    client: httpx.Client
    files: Path

    def work(self) -> None:
        """Carry out what is in the trainings' queue."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        app = build_queue_app(self.connections.database_url)
        add_tasks(app, self.connections)
        async with app.open_async():
            await app.run_worker_async(queues=[QUEUES["train"]], wait=False, install_signal_handlers=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work off the queue as soon as there is something in it, beside what the block does."""

        def work() -> None:
            wait_until(lambda: self.count("queued") > 0, TIMEOUT_S)
            self.work()

        worker = threading.Thread(target=work)
        worker.start()
        yield
        worker.join(TIMEOUT_S)

    def count(self, state: str) -> int:
        with self.connections.engine.connect() as connection:
            return int(
                connection.scalar(select(func.count()).select_from(trainings).where(trainings.c.state == state)) or 0
            )

    def load_newest(self) -> Training:
        with self.connections.engine.connect() as connection:
            found = connection.scalar(select(trainings.c.id).order_by(trainings.c.requested_at.desc()).limit(1))
            return get_training(connection, uuid.UUID(str(found)))

    def open_version(self, version: int, folder: Path, model: str = MODEL) -> ModelDirectory:
        """The files of a registered version."""
        folder.mkdir(exist_ok=True)
        self.connections.registry.download(model, version, folder)
        return ModelDirectory.open(folder)

    def find_served(self) -> int | None:
        answer = self.client.get(f"/models/{MODEL}")
        return answer.json()["version"] if answer.status_code == 200 else None


def _run_here(connections: Connections) -> Any:
    """In place of a child: the same entry point, in a thread of this process."""

    async def run(_connections: Connections, _job: WatchedJob, command: Sequence[str], *_: object, **__: object) -> int:
        given = dict(part.split("=", 1) for part in command if part.startswith(("workload=", "training=", "attempt=")))
        with connections.engine.connect() as connection:
            training = get_training(connection, uuid.UUID(given["training"]))
        workload = get_workload(given["workload"])
        await asyncio.to_thread(project._attempt, connections, workload, training, attempt=int(given["attempt"]))
        return 0

    return run


@contextmanager
def _serving(connections: Connections, folder: Path, control_address: str) -> Iterator[str]:
    settings = build_settings(
        folder, find_free_port(), tracking_uri=connections.settings.tracking_address, control_url=control_address
    )
    app = create_app(settings, connections.database_url)
    server = uvicorn.Server(uvicorn.Config(app, port=settings.serving_port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield settings.serving_address
    finally:
        server.should_exit = True
        thread.join(60)


def _delete_models(address: str) -> None:
    client = MlflowClient(address, address)
    for model in (MODEL, "books"):
        try:
            client.delete_registered_model(model)
        except MlflowException as error:
            assert error.error_code == "RESOURCE_DOES_NOT_EXIST"  # noqa: PT017  # the other outcome is fine too


@pytest.fixture(scope="module")
def own_url(database_url: str) -> Iterator[str]:
    name = f"ways_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(build_libpq_url(database_url), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        url = make_url(database_url).set(database=name).render_as_string(hide_password=False)
        migrate_database(url)
        yield url
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(scope="module")
def platform(
    own_url: str, tracking_server: str, database_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """The platform, whose model `failures` has version 1: uploaded with the documented command."""
    folder = tmp_path_factory.mktemp("ways")
    _delete_models(tracking_server)
    with controlling(folder / "control", own_url, tracking_server) as controlled:
        connections = controlled.connections
        declare_workloads(connections)
        with (
            _serving(connections, folder / "serving", controlled.address) as address,
            httpx.Client(base_url=address, headers=HEADERS, timeout=TIMEOUT_S) as client,
        ):
            running = Platform(connections, address, client, folder)
            write_sample(folder / "new.csv", rows=1300)
            yield running
    _delete_models(tracking_server)


@pytest.fixture(scope="module")
def uploaded(platform: Platform) -> Training:
    """The first training, asked for with the documented command, carried out by a child."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = ["curl", "-sS", "-X", "POST", f"{platform.address}/models/{MODEL}/retrain", "-F", "file=@new.csv"]

    def ask(*options: str) -> Any:
        return json.loads(
            subprocess.run([*command, *options], cwd=platform.files, check=True, capture_output=True).stdout
        )

    assert ask()["status"] == 401
    assert platform.count("queued") == 0
    answer = ask("--oauth2-bearer", TOKEN)
    assert answer["training"]["state"] == "queued", answer
    platform.work()
    with platform.connections.engine.connect() as connection:
        return get_training(connection, uuid.UUID(answer["training"]["id"]))


@pytest.fixture
def here(platform: Platform, uploaded: Training, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The platform with its first version; trainings run in this process."""
    monkeypatch.setattr(training_module, "run_watched", _run_here(platform.connections))
    return platform


# --- by upload ---------------------------------------------------------------------------------------------------


def test_documented_command_ends_with_a_version_that_serves(
    platform: Platform, uploaded: Training, tmp_path: Path
) -> None:
    assert (uploaded.state, uploaded.cause, uploaded.actor, uploaded.error) == ("finished", "upload", ACTOR, None)
    assert uploaded.version == 1
    wait_until(lambda: platform.find_served() == 1, TIMEOUT_S)
    answer = platform.client.post(f"/models/{MODEL}/predict", json={"rows": [CAR]})
    assert answer.status_code == 200, answer.text
    # Raw units in: what scales them is in the version, and neither label nor id is among its features.
    version = platform.open_version(1, tmp_path)
    assert version.contract["features"] == list(CAR)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()}.isdisjoint({".pkl", ".pickle", ".h5"})


def test_uploaded_rows_are_all_in_the_training_set(platform: Platform, uploaded: Training, tmp_path: Path) -> None:
    assert uploaded.snapshot_digest is not None
    with platform.connections.engine.connect() as connection:
        columns = load_snapshot(connection, uploaded.snapshot_digest, platform.connections.tracking, tmp_path)
        stored = connection.execute(text("SELECT name, state FROM sources WHERE id = :id"), {"id": uploaded.source_id})
        assert [tuple(row) for row in stored] == [("new.csv", "imported")]
    assert len(columns["KNR"]) == 1300


def test_upload_continues_the_version_in_production_and_earlier_ones_stay(
    here: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    more = here.files / "more.csv"
    write_sample(more, rows=1500)
    before = {found.version for found in here.connections.registry.load_versions(MODEL)}
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    with here.working(), more.open("rb") as file:
        answer = here.client.post(
            f"/models/{MODEL}/retrain", params={"wait": 280}, files={"file": file}, data={**QUICK, "epochs": "2"}
        )
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["version"] == max(before) + 1
    assert document["training"]["verdict"] is not None
    evaluation = here.open_version(document["version"], tmp_path / "version").evaluation
    production = json.loads(json.dumps(evaluation["provenance"]))["continues"]
    assert production in before
    assert {found.version for found in here.connections.registry.load_versions(MODEL)} == before | {document["version"]}
    # The model's own files, the snapshot and the upload were there while it trained.
    gc.collect()
    # TensorFlow compiles what it traces from files, and keeps them as long as the process lives.
    assert [one.name for one in spool.rglob("*") if one.is_file() and not one.name.startswith("__autograph")] == []


def test_front_address_shows_the_routes_of_control_too(platform: Platform) -> None:
    page = platform.client.get("/docs/control")
    assert page.status_code == 200 and "/docs/control/openapi.json" in page.text
    shown = platform.client.get("/docs/control/openapi.json").json()["paths"]
    assert "/models/{model}/retrain" in shown
    assert "/docs/control" in platform.client.get("/openapi.json").json()["info"]["description"]


# --- by the clock, at start-up, by hand, by a finding ------------------------------------------------------------


def test_training_by_schedule_ends_with_a_verdict(here: Platform) -> None:
    write_ratings(here.files / "ratings.csv", users=300)
    with (here.files / "ratings.csv").open("rb") as file:
        here.client.post("/models/books/observations", files={"file": file}).raise_for_status()
    before = datetime(2026, 5, 1, 23, 59, tzinfo=UTC)
    schedule_trainings(here.connections, before)
    assert schedule_trainings(here.connections, before + timedelta(minutes=1)) == ["books"]
    here.work()
    training = here.load_newest()
    assert (training.model, training.cause, training.actor) == ("books", "schedule", "schedule")
    assert (training.state, training.error) == ("finished", None)
    assert training.verdict_id is not None


def test_training_at_start_up_is_of_what_has_no_version(here: Platform) -> None:
    # As after the model was deleted from the registry.
    client = MlflowClient(here.connections.settings.tracking_address, here.connections.settings.tracking_address)
    for version in client.search_model_versions("name = 'books'"):
        client.delete_model_version("books", version.version)
    write_ratings(here.files / "ratings.csv", users=300)
    with (here.files / "ratings.csv").open("rb") as file:
        here.client.post("/models/books/observations", files={"file": file}).raise_for_status()
    assert request_startup_trainings(here.connections) == ["books"]
    here.work()
    training = here.load_newest()
    assert (training.model, training.cause, training.actor) == ("books", "startup", "platform")
    assert (training.state, training.error) == ("finished", None)
    assert training.verdict_id is not None


def test_training_by_hand_ends_with_a_verdict(here: Platform) -> None:
    answer = here.client.post(f"/models/{MODEL}/trainings", json={"parameters": {"max_epochs": 2}})
    here.work()
    document = here.client.get(answer.headers["location"]).json()
    assert (document["cause"], document["actor"], document["state"]) == ("hand", ACTOR, "finished")
    assert document["verdict"]["checks"]


def test_training_by_finding_speaks_against_the_champion(here: Platform) -> None:
    wait_until(lambda: here.find_served() is not None, TIMEOUT_S)
    served = here.find_served()
    shifted = [{**CAR, "1_status_10": 100 + number % 7} for number in range(150)]
    outcomes = []
    for round_number in (1, 2):
        here.client.post(f"/models/{MODEL}/predict", json={"rows": shifted}).raise_for_status()
        wait_until(lambda: _count_served(here) >= 150 * round_number, TIMEOUT_S)  # noqa: B023
        outcomes.append(run_check(here.connections, get_workload(MODEL)).outcome)
    assert outcomes[-1] == "retrain", outcomes
    training = here.load_newest()
    assert (training.cause, training.actor, training.model) == ("finding", "platform", MODEL)
    assert training.finding_id is not None
    here.work()
    ended = here.load_newest()
    assert (ended.id, ended.state, ended.error) == (training.id, "finished", None)
    finding = here.client.get(f"/models/{MODEL}/findings").json()[0]
    assert (finding["training_id"], finding["version"]) == (str(training.id), served)


def _count_served(platform: Platform) -> int:
    statement = "SELECT coalesce(sum(predictions), 0) FROM request_counts WHERE model = 'failures'"
    with platform.connections.engine.connect() as connection:
        return int(connection.scalar(text(statement)) or 0)


# --- mlflow run . --backend millrace -----------------------------------------------------------------------------


def run_project(entry: str, **given: Any) -> RequestedRun:
    """What `mlflow run . -e ENTRY --backend millrace` calls."""
    run = mlflow.projects.run(str(REPOSITORY), entry, backend="millrace", **given)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
    assert isinstance(run, RequestedRun)
    return run


@pytest.fixture
def at_the_door(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A person on another machine: the platform's address and a token are all that the environment has."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{platform.address}/mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    # What a training in this process has set would go before the environment.
    mlflow.set_tracking_uri(f"{platform.address}/mlflow")
    return platform


def test_documented_mlflow_run_follows_the_training_whose_run_it_made(
    at_the_door: Platform, uploaded: Training, tmp_path: Path
) -> None:
    mlflow_command = str(Path(sys.executable).parent / "mlflow")
    command = [
        mlflow_command,
        "run",
        str(REPOSITORY),
        "--backend",
        "millrace",
        "-e",
        "train",
        "-P",
        f"workload={MODEL}",
    ]
    options = ["-P", "max_epochs=2", "--backend-config", '{"follow": true}']
    with at_the_door.working():
        done = subprocess.run([*command, *options], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    training = at_the_door.load_newest()
    assert training.id != uploaded.id
    assert (training.cause, training.state, training.actor) == ("project", "finished", ACTOR)
    assert training.parameters == {"max_epochs": 2}
    assert f"queued: {at_the_door.address}/trainings/{training.id}" in done.stderr
    assert f"made version {training.version}" in done.stderr
    run = MlflowClient().get_run(str(training.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["max_epochs"] == "2"
    assert run.data.tags["millrace.training_id"] == str(training.id)
    assert run.data.tags["mlflow.project.backend"] == "millrace"
    assert MlflowClient().get_experiment(run.info.experiment_id).name == MODEL


def test_training_that_fails_before_it_begins_fails_its_run(at_the_door: Platform) -> None:
    with (
        at_the_door.working(),
        pytest.raises(ExecutionException, match="failed"),
    ):
        # No row of it was taken in.
        run_project("train", parameters={"workload": "man_hours"})
    training = at_the_door.load_newest()
    assert (training.model, training.state) == ("man_hours", "failed")
    run = MlflowClient().get_run(str(training.run_id))
    assert run.info.status == "FAILED"
    assert "0 rows fit the query" in run.data.tags["millrace.error"]


def test_asynchronous_run_is_answered_at_once_and_a_second_with_the_first(at_the_door: Platform) -> None:
    first = run_project("retrain", parameters={"workload": MODEL}, synchronous=False)
    assert first.get_status() == 2
    assert at_the_door.load_newest().parameters == {"continue": 1}
    second = run_project("train", parameters={"workload": MODEL}, synchronous=False)
    assert second.url == first.url
    statuses = [MlflowClient().get_run(run.run_id).info.status for run in (first, second)]
    assert statuses == ["RUNNING", "KILLED"]
    with at_the_door.connections.engine.begin() as connection:
        connection.execute(text("UPDATE trainings SET state = 'failed', error = 'stopped' WHERE state = 'queued'"))
        connection.execute(text("DELETE FROM procrastinate_jobs WHERE status = 'todo'"))
    assert not first.wait()
    assert first.describe() == "is failed: stopped"
    MlflowClient().set_terminated(first.run_id, "KILLED")


@pytest.mark.parametrize(
    ("entry", "parameters", "config", "said"),
    [
        ("tune", {"workload": MODEL}, {}, "carries out train and retrain, not 'tune'"),
        ("train", {}, {}, "-P workload=NAME is needed"),
        ("train", {"workload": "../etc"}, {}, "'../etc' was given"),
        ("train", {"workload": MODEL, "training": "1"}, {}, "is the worker's own"),
        ("train", {"workload": MODEL, "max_epochs": "many"}, {}, "is no number"),
        ("train", {"workload": MODEL, "max_epochs": "0"}, {}, "max_epochs=0 is not allowed"),
        ("train", {"workload": MODEL, "layers": "3"}, {}, "layers=3 is not allowed: known are"),
        ("train", {"workload": MODEL}, {"cluster": "big"}, "takes {'follow': true} alone"),
        ("train", {"workload": "nothing"}, {}, "There is no model 'nothing'"),
    ],
)
def test_run_that_cannot_be_is_refused_and_leaves_none_running(
    at_the_door: Platform, entry: str, parameters: dict[str, str], config: dict[str, str], said: str
) -> None:
    with pytest.raises(ExecutionException) as raised:
        run_project(entry, parameters=parameters, backend_config=config, synchronous=False)
    assert said in str(raised.value)
    client = MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments() if one.name in (MODEL, "nothing")]
    assert client.search_runs(experiments, "attributes.status = 'RUNNING'") == []
    assert at_the_door.count("queued") == 0


def test_run_of_another_training_or_experiment_is_refused(at_the_door: Platform, uploaded: Training) -> None:
    path = f"/models/{MODEL}/trainings"
    client = MlflowClient()
    other = client.create_run(client.create_experiment(f"other_{uuid.uuid4().hex}")).info.run_id
    for run_id, said in (
        (str(uploaded.run_id), "its status is FINISHED"),
        (other, "it is not in the experiment 'failures'"),
        ("0" * 32, "there is no such run"),
    ):
        answer = at_the_door.client.post(path, json={"run_id": run_id})
        assert answer.status_code == 422, answer.text
        assert said in answer.json()["detail"]
    assert at_the_door.client.post(path, json={"run_id": "../1"}).status_code == 422
    assert at_the_door.count("queued") == 0
