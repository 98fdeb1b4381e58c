"""kill -9 of the worker, of its child and of PostgreSQL at each step of a training, which ends well all the same.

The platform's database and MLflow's are in a PostgreSQL of this module's own. The kills come one after another, each in
the next attempt: a training that survives all of them survives any one.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest
from mlflow import MlflowClient
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url, text

from core.connections import Connections, open_connections
from core.database import build_libpq_url, migrate_database
from core.embedded_database import EmbeddedDatabase, running_database
from core.job_lines import load_last_lines
from core.settings import load_settings
from core.tracking import TRAINING_TAG
from core.trainings import Training, get_training
from core.transitions import load_history
from tests.conftest import find_free_port, make_open_folder, running_tracking
from tests.jobs.requesting import bring_rows, load, request
from tests.jobs.stalling import Matches, StallingWay
from tests.web.running import running

REPOSITORY = Path(__file__).parent.parent.parent
MODEL = "prices"
PARAMETERS = {"hidden_size": 4, "sequence_length": 8, "max_epochs": 1}
ROWS = 1200
STEP_S = 120.0

# The entry point of the project without MLflow's launcher around it, which takes seconds each time; what is looked at
# every few seconds is looked at every second.
_WORKER = """
import sys
import jobs.tasks, jobs.training
from core.settings import load_settings
from jobs.worker import run_worker

url, home, tracking_uri = sys.argv[1:]
jobs.training._build_command = lambda connections, training: [
    sys.executable, "-m", "jobs.project", "train", training.model,
    f"--training={training.id}", f"--attempt={training.attempt}",
]
jobs.tasks.RECONCILE_CRON = "* * * * * *"
jobs.training._TRACKING_LOOK_S = 0.5
settings = load_settings(home=home, tracking_uri=tracking_uri, worker_timeout_s=1.5, training_attempts=10)
run_worker(settings, url)
"""


@dataclass
class Ground:
    """The real parts that are killed, and the way to the tracking server."""

    database: EmbeddedDatabase
    home: Path
    way: StallingWay
    address: str
    url: str = ""
    worker: subprocess.Popen[bytes] | None = field(default=None)

    def start_worker(self) -> None:
        """Start the worker unless it runs, as a supervisor would."""
        if self.worker is None or self.worker.poll() is not None:
            arguments = [self.url, str(self.home), self.address]
            self.worker = subprocess.Popen([sys.executable, "-c", _WORKER, *arguments], cwd=REPOSITORY)

    def stop_worker(self) -> None:
        """Let the worker end."""
        if self.worker is not None:
            self.worker.terminate()
            try:
                self.worker.wait(20)
            finally:
                self.worker.kill()
                self.worker = None

    def kill(self, victim: str) -> None:
        """kill -9; a supervisor starts again what it watches."""
        assert self.worker is not None
        if victim == "worker":
            self.worker.kill()
            self.worker.wait()
        elif victim == "child":
            os.kill(find_child(self.worker.pid), signal.SIGKILL)
        else:
            postmaster = self.database.find_pid()
            assert postmaster is not None
            os.kill(postmaster, signal.SIGKILL)
            self.database.ensure_running()


def find_child(worker: int) -> int:
    """The process that carries the attempt out: the last of the worker's descendants that runs the project."""
    found = [
        process.pid
        for process in psutil.Process(worker).children(recursive=True)
        if "jobs.project" in process.cmdline() and not any("guard" in part for part in process.cmdline())
    ]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """PostgreSQL, a tracking server on it, and the way to that server."""
    home = make_open_folder()
    port = find_free_port()
    settings = load_settings(home=home, artifacts=str(home / "mlruns"), tracking_port=port)
    with running_database(home) as url, running_tracking(settings, url):
        way = StallingWay(settings.tracking_address)
        with running(way) as address:
            yield Ground(EmbeddedDatabase(home), home, way, address)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def platform(ground: Ground) -> Iterator[tuple[Ground, Connections]]:
    """The same with an empty database of the platform, which knows no model, and rows to train on."""
    name = f"faults_{time.monotonic_ns()}"
    with psycopg.connect(build_libpq_url(ground.database.url), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    ground.url = make_url(ground.database.url).set(database=name).render_as_string(hide_password=False)
    migrate_database(ground.url)
    settings = load_settings(home=ground.home, tracking_uri=ground.address)
    with open_connections(settings, ground.url) as connections:
        bring_rows(connections, ROWS)
        try:
            yield ground, connections
        finally:
            ground.way.let_go()
            ground.stop_worker()
    client = MlflowClient(ground.address, ground.address)
    if client.search_registered_models(f"name = '{MODEL}'"):
        client.delete_registered_model(MODEL)


def work_until(
    ground: Ground, connections: Connections, training: Training, is_so: Callable[[], bool], what: str
) -> None:
    """Have a worker, as often as it ends, until it is so."""
    deadline = time.monotonic() + STEP_S
    ground.start_worker()
    while not is_so():
        ground.start_worker()
        assert time.monotonic() < deadline, f"{what} was not reached: {describe(connections, training)}"
        time.sleep(0.02)


def describe(connections: Connections, training: Training) -> str:
    """Where the training is, and the last that it said."""
    with connections.engine.connect() as connection:
        lines = load_last_lines(connection, training.id, 30)
    return "\n".join([str(load(connections, training.id)), *(line.text for line in lines)])


def is_put(part: str) -> Matches:
    return lambda method, path, _body: method == "PUT" and part in path


def is_post(end: str, word: bytes = b"") -> Matches:
    return lambda method, path, body: method == "POST" and path.endswith(end) and word in body


REQUESTS = {
    "snapshot": (is_put("/artifacts/snapshots/"), False),
    "log": (is_put("contract.json"), False),
    # From here on MLflow has done what it was asked, and nobody has heard of it.
    "register": (is_post("/model-versions/create"), True),
    "transition": (is_post("/model-versions/transition-stage"), True),
    "record": (is_put("verdict.json"), False),
    # The training has ended, and its run says so last.
    "settle": (is_post("/runs/update", b"FINISHED"), False),
}


@contextmanager
def reaching(ground: Ground, connections: Connections, step: str) -> Iterator[Callable[[], bool]]:
    """What says whether the training stands in that step; where it can, it is held there until the block ends."""

    def load_step() -> str:
        with connections.engine.connect() as connection:
            return str(connection.scalar(text("SELECT step FROM trainings")))

    if step in REQUESTS:
        matches, is_done = REQUESTS[step]
        ground.way.arm(matches, is_done=is_done)
        yield ground.way.reached.is_set
        ground.way.let_go()
    elif step == "gate":
        # A verdict waits to be stored as long as another session has the table.
        with connections.engine.connect() as holder:
            holder.execute(text("LOCK TABLE verdicts IN SHARE ROW EXCLUSIVE MODE"))
            yield lambda: load_step() == "gate" and is_somebody_waiting(connections)
            holder.invalidate()
    else:
        yield lambda: load_step().startswith(step)


def is_somebody_waiting(connections: Connections) -> bool:
    statement = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'verdicts'::regclass")
    with connections.engine.connect() as connection:
        return bool(connection.scalar(statement))


STEPS = ("snapshot", "fit", "log", "register", "gate", "transition", "record", "settle")
# The first and the last are the worker's own work.
WITHOUT_CHILD = ("snapshot", "settle")


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds a process to its parent")
@pytest.mark.parametrize("victim", ["worker", "child", "database"])
def test_training_survives_a_kill_at_each_of_its_steps(platform: tuple[Ground, Connections], victim: str) -> None:
    ground, connections = platform
    steps = [step for step in STEPS if victim != "child" or step not in WITHOUT_CHILD]
    training = request(connections, MODEL, parameters=PARAMETERS)
    for step in steps:
        with reaching(ground, connections, step) as is_there:
            work_until(ground, connections, training, is_there, step)
            ground.kill(victim)

    def is_settled() -> bool:
        statement = text("SELECT settled_at IS NOT NULL FROM trainings")
        with connections.engine.connect() as connection:
            return bool(connection.scalar(statement))

    work_until(ground, connections, training, is_settled, "its end")
    check_end(connections, training.id)


def check_end(connections: Connections, training_id: uuid.UUID) -> None:
    """One version, in Production by one transition; no run that counts as running; the training is finished."""
    with connections.engine.connect() as connection:
        ended = get_training(connection, training_id)
        history = load_history(connection, MODEL, None)
    assert (ended.state, ended.progress, ended.error) == ("finished", 1.0, None)
    versions = connections.registry.load_versions(MODEL)
    assert [(one.version, one.stage) for one in versions] == [(ended.version, "Production")]
    assert connections.registry.load_standing(MODEL).is_aligned
    assert [(one.version, one.state, one.origin) for one in history] == [(ended.version, "finished", "platform")]
    address = connections.settings.tracking_address
    client = MlflowClient(address, address)
    experiment = client.get_experiment_by_name(MODEL)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{TRAINING_TAG}` = '{ended.id}'")
    statuses = {run.info.run_id: run.info.status for run in runs}
    assert statuses.pop(str(ended.run_id)) == "FINISHED"
    assert set(statuses.values()) <= {"KILLED", "FAILED"}
