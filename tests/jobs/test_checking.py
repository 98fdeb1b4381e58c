"""Checks as jobs: what fails is stored for people to see, and fails its job."""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import text

from core.alerts import load_alerts
from core.checks import request_check
from core.connections import Connections, open_connections
from core.findings import load_findings, store_finding
from core.job_queue import build_queue_app
from core.monitoring_errors import CheckFailed
from core.reference import build_reference
from core.settings import load_settings
from jobs.checking import fail_report, read_since
from jobs.tasks import add_tasks
from jobs.training import PROJECT_FOLDER, build_environment
from tests.core.test_findings import build_finding
from tests.monitoring.test_checking import NAMES, ROWS, Served, draw, put_into_production

MODEL = "man_hours"
CHILD_S = 180.0


def test_a_report_that_fails_is_an_alert_and_a_failed_job_once_and_its_decision_stands(
    migrated_database_url: str,
) -> None:
    finding = build_finding(outcome="fine")
    with open_connections(load_settings(), migrated_database_url) as connections:
        with connections.engine.begin() as connection:
            store_finding(connection, finding)
        for _ in range(2):
            with pytest.raises(CheckFailed, match="The check of prices failed: it ended with code 1"):
                fail_report(connections, "prices", finding.id, f"it ended with code 1: {'x' * 5_000} no place")
        with connections.engine.connect() as connection:
            (failure,) = load_findings(connection, "prices", subject="check")
            assert load_findings(connection, "prices", subject="drift") == [finding]
            (alert,) = load_alerts(connection, "prices", is_open=True)
    assert (failure.outcome, failure.version) == ("alert", finding.version)
    assert (alert.finding_id, alert.title, alert.times) == (failure.id, "A check, or its report, failed", 1)
    assert str(finding.id) in failure.reasons[0] and failure.reasons[0].endswith("no place")
    assert len(failure.reasons[0]) < 700


def test_report_that_takes_too_much_memory_is_stopped_and_people_are_told(
    migrated_database_url: str, tmp_path: Path
) -> None:
    finding = build_finding(outcome="fine")
    settings = load_settings(home=tmp_path, job_memory_max_bytes=2**20)
    app = build_queue_app(migrated_database_url)
    with open_connections(settings, migrated_database_url) as connections:
        with connections.engine.begin() as connection:
            store_finding(connection, finding)
        add_tasks(app, connections)
        with pytest.raises(CheckFailed, match="1 MiB are allowed"):
            asyncio.run(app.tasks["report"].func(model="prices", finding_id=str(finding.id)))
        with connections.engine.connect() as connection:
            (alert,) = load_alerts(connection, "prices", is_open=True)
    assert alert.title == "A check, or its report, failed"


def test_only_what_a_child_added_to_the_log_is_told(tmp_path: Path) -> None:
    log = tmp_path / f"{uuid.uuid4()}.log"
    assert read_since(log, 0) == ""
    log.write_text("before\n")
    before = log.stat().st_size
    log.write_text("before\nthe fault\n")
    assert read_since(log, before) == "the fault\n"


@pytest.fixture
def served(connections: Connections, tmp_path: Path) -> Iterator[Served]:
    """A version of a declared workload in Production, which has answered shifted values."""
    reference = build_reference(draw(3000, 1), NAMES, ["N", ""], seed=1)
    served = put_into_production(connections, MODEL, reference, tmp_path)
    served.serve(draw(ROWS, 3, shift=1.5))
    yield served
    address = connections.settings.tracking_address
    MlflowClient(address, address).delete_registered_model(MODEL)


def start_check(served: Served, check_id: uuid.UUID) -> "subprocess.Popen[bytes]":
    """The process that a worker starts for the check."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.project", "check", MODEL, f"--job={check_id}"],
        env=build_environment(served.connections),
        cwd=PROJECT_FOLDER,
    )


def kill_when(process: "subprocess.Popen[bytes]", holds: Callable[[], bool]) -> None:
    """kill -9 at the moment from which on it holds."""
    deadline = time.monotonic() + CHILD_S
    try:
        while not holds():
            assert process.poll() is None, "the check ended by itself"
            assert time.monotonic() < deadline, "the check did not come that far"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_check_that_is_killed_after_its_finding_and_runs_again_is_one_finding(served: Served) -> None:
    engine = served.connections.engine
    with engine.begin() as connection:
        check_id = request_check(connection, MODEL, actor="tests")

    # Evidently is imported after the finding is stored, which takes seconds.
    kill_when(start_check(served, check_id), lambda: bool(served.load()))
    (half,) = served.load()
    assert (half.outcome, half.report_uri) == ("alert", None)

    assert start_check(served, check_id).wait(CHILD_S) == 0
    (whole,) = served.load()
    assert (whole.id, whole.outcome, whole.report_uri is not None) == (half.id, "alert", True)
    with engine.connect() as connection:
        ended = connection.execute(text("SELECT state, finding_id FROM checks")).one()
        (alert,) = load_alerts(connection, MODEL)
    assert tuple(ended) == ("finished", whole.id)
    assert alert.times == 1
