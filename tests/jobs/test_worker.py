"""The worker as a process: killed in the middle of a training, and at start-up."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from core.approvals import ask_for_approval
from core.connections import Connections
from core.job_queue import build_queue_app
from core.trainings import fail_training, load_trainings
from core.verdicts import Verdict, store_verdict
from ingestion.importing import import_file
from jobs import schedule
from jobs.schedule import find_waiting, request_startup_trainings
from jobs.tasks import add_tasks
from tests.jobs.requesting import bring_rows, load, load_jobs, request
from workloads.declaration import Workload
from workloads.prices.sample import write_sample
from workloads.prices.workload import WORKLOAD

REPOSITORY = Path(__file__).parent.parent.parent

# A worker whose children run a program of the test's instead of `mlflow run`.
_WORKER = """
import sys
from pathlib import Path
import jobs.training
from core.settings import load_settings
from jobs.worker import run_worker

url, home, tracking_uri, program = sys.argv[1:]
jobs.training._build_command = lambda connections, training: [sys.executable, "-c", program]
settings = load_settings(home=home, tracking_uri=tracking_uri, worker_timeout_s=3.0, training_attempts=2)
run_worker(settings, url)
"""


@contextmanager
def running_worker(connections: Connections, program: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = connections.settings
    arguments = [connections.database_url, str(settings.home), settings.tracking_address, program]
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, *arguments], cwd=REPOSITORY)
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(timeout=20)
        finally:
            worker.kill()


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_training_of_a_killed_worker_is_taken_over_and_its_child_is_dead(
    connections: Connections, tmp_path: Path
) -> None:
    bring_rows(connections, 60)
    training = request(connections)
    mark = tmp_path / "child"
    sleeps = f"import os, time, pathlib; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(300)"
    with running_worker(connections, sleeps) as first:
        wait_until(lambda: mark.exists() and mark.read_text() != "")
        child = int(mark.read_text())
        assert is_alive(child)
        assert load(connections, training.id).attempt == 1
        first.kill()
        wait_until(lambda: not is_alive(child), timeout_s=10)
    with running_worker(connections, "print('second worker'); raise SystemExit(4)"):
        wait_until(lambda: not load(connections, training.id).is_open)
        # The lost job stays; the one that took over came to its end and is deleted, as the training keeps what matters.
        wait_until(lambda: [status for _, status in load_jobs(connections, training.id)] == ["failed"])
    ended = load(connections, training.id)
    assert (ended.state, ended.attempt) == ("failed", 2)
    assert ended.error == "attempt 2 of 2 ended with code 4: second worker\n"


def test_worker_ends_in_time_when_it_is_asked_to_and_takes_its_child_with_it(
    connections: Connections, tmp_path: Path
) -> None:
    bring_rows(connections, 60)
    training = request(connections)
    mark = tmp_path / "child"
    sleeps = f"import os, time, pathlib; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(300)"
    with running_worker(connections, sleeps) as worker:
        wait_until(lambda: mark.exists() and mark.read_text() != "")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=20) == 0
    assert not is_alive(int(mark.read_text()))
    assert load(connections, training.id).is_open


def test_each_periodic_job_runs_at_its_own_pace(
    connections: Connections,
) -> None:
    app = build_queue_app(connections.database_url)
    add_tasks(app, connections)
    pauses = {}
    for (name, _), task in app.periodic_registry.periodic_tasks.items():
        task.croniter.set_current(start_time=1_700_000_000)
        ticks = [task.croniter.get_next(ret_type=float) for _ in range(200)]
        pauses[name] = {after - before for before, after in pairwise(ticks)}
    assert pauses == {
        "reconcile": {5.0},
        "watch_probations": {60.0},
        "complete_observations": {300.0},
        "check_performance": {86_400.0},
        "check_all": {3600.0},
        "keep_partitions": {3600.0},
        "deliver_alerts": {10.0},
        "clean_up": {86_400.0},
        "schedule_trainings": {60.0},
    }


# --- start-up ----------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Workload]:
    """Two workloads of the test's own."""
    names = [f"{what}_{uuid.uuid4().hex[:8]}" for what in ("first", "second")]
    found = {name: replace(WORKLOAD, name=name) for name in names}
    monkeypatch.setattr(schedule, "load_catalogue", lambda: found)
    return found


def bring_rows_of(connections: Connections, workload: Workload, folder: Path) -> None:
    path = folder / "rows.csv"
    write_sample(path, rows=40)
    import_file(connections.engine, workload.build_contract(), path, name="rows.csv", actor="tests")


def test_startup_requests_a_training_of_each_untrained_workload_with_rows_once(
    connections: Connections, catalogue: Mapping[str, Workload], tmp_path: Path
) -> None:
    with_rows, without = list(catalogue)
    assert request_startup_trainings(connections) == []
    bring_rows_of(connections, catalogue[with_rows], tmp_path)
    assert find_waiting(connections) == [with_rows]
    assert request_startup_trainings(connections) == [with_rows]
    assert request_startup_trainings(connections) == []
    with connections.engine.begin() as connection:
        assert load_trainings(connection, without) == []
        trainings = load_trainings(connection, with_rows)
        assert [(one.cause, one.state) for one in trainings] == [("startup", "queued")]
        fail_training(connection, trainings[0].id, 0, "broken")
    assert find_waiting(connections) == []


def test_startup_leaves_a_workload_with_a_version_in_production_alone(
    connections: Connections, catalogue: Mapping[str, Workload], tmp_path: Path
) -> None:
    name = next(iter(catalogue))
    bring_rows_of(connections, catalogue[name], tmp_path)
    run_id = connections.tracking.start_run(name, None, {})
    version = connections.registry.register(name, run_id, f"runs:/{run_id}/version", {})
    connections.registry.move_to_production(name, version.version)
    assert request_startup_trainings(connections) == []
    assert find_waiting(connections) == []


def test_startup_leaves_a_workload_whose_first_version_waits_for_an_approval_alone(
    connections: Connections, catalogue: Mapping[str, Workload], tmp_path: Path
) -> None:
    name = next(iter(catalogue))
    bring_rows_of(connections, catalogue[name], tmp_path)
    run_id = connections.tracking.start_run(name, None, {})
    version = connections.registry.register(name, run_id, f"runs:/{run_id}/version", {})
    verdict = Verdict(name, version.version, None, "promote", "passed", (), "operator")
    with connections.engine.begin() as connection:
        verdict_id = store_verdict(connection, verdict, None)
    ask_for_approval(connections.engine, connections.registry, verdict, verdict_id, actor="ann")
    assert request_startup_trainings(connections) == []
