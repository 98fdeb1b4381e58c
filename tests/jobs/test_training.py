"""Carrying a training out: by a child process, as often as is allowed, to a state that says what became of it."""

import asyncio
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from core.connections import Connections
from core.job_queue import QUEUES, build_queue_app
from core.jobs import cancel_job
from core.policies import Limits
from core.promotion import promote
from core.trainings import Training, record_step
from core.verdicts import Verdict, store_verdict
from jobs import training as training_module
from jobs.recovery import recover_jobs
from jobs.tasks import add_tasks
from jobs.training import build_log_path, carry_out, prepare_attempt
from tests.jobs.requesting import CommandBuilder, bring_rows, change_settings, load, load_jobs, request
from workloads.catalogue import get_workload

LAST_WORDS = "the last words of a child"


@pytest.fixture
def client(tracking_server: str) -> Iterator[MlflowClient]:
    """A client of the tracking server, which knows no model `prices` when the test ends."""
    client = MlflowClient(tracking_server, tracking_server)
    yield client
    try:
        client.delete_registered_model("prices")
    except MlflowException as error:
        assert error.error_code == "RESOURCE_DOES_NOT_EXIST"  # noqa: PT017  # the other outcome is fine too


@pytest.fixture
def stocked(connections: Connections) -> Connections:
    """Connections to a database with enough rows for a snapshot."""
    bring_rows(connections, 60)
    return connections


def run_instead(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let this Python program be the child that carries an attempt out."""
    build: CommandBuilder = lambda _connections, _training: [sys.executable, "-c", program]  # noqa: E731
    monkeypatch.setattr(training_module, "_build_command", build)


def fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, f"print({LAST_WORDS!r}, flush=True); raise SystemExit(3)")


def test_training_is_carried_out_by_mlflow_run_whatever_experiment_the_environment_names(
    connections: Connections, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    bring_rows(connections, 1200)
    training = request(connections, parameters={"hidden_size": 4, "sequence_length": 8, "max_epochs": 1})
    ended = asyncio.run(carry_out(connections, training.id))
    log = build_log_path(connections, ended).read_text(encoding="utf-8")
    assert (ended.state, ended.attempt, ended.error) == ("finished", 1, None), log
    assert ended.run_id is not None and ended.version is not None and ended.verdict_id is not None
    run = client.get_run(ended.run_id)
    assert run.info.status == "FINISHED"
    # MLflow's own record of the project run, and ours, are one run.
    assert run.data.tags["mlflow.project.entryPoint"] == "train"
    assert run.data.tags["millrace.training_id"] == str(training.id)
    assert run.data.params["hidden_size"] == "4"
    version = connections.registry.get_version("prices", ended.version)
    assert (version.run_id, version.stage) == (ended.run_id, "Production")
    assert version.tags["millrace.attempt"] == "1"


def test_child_that_dies_is_tried_again_and_at_last_the_training_fails_with_what_it_said(
    stocked: Connections, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = request(stocked)
    runs: list[str] = []
    statuses: list[list[str]] = []

    def build(connections: Connections, attempted: Training) -> list[str]:
        # Each child leaves a run that nobody ends, as one that is killed does.
        statuses.append([client.get_run(run_id).info.status for run_id in runs])
        tags = {"millrace.training_id": str(attempted.id)}
        runs.append(connections.tracking.start_run("prices", None, tags))
        return [sys.executable, "-c", f"print({LAST_WORDS!r}, {attempted.attempt}); raise SystemExit(3)"]

    monkeypatch.setattr(training_module, "_build_command", build)
    ended = asyncio.run(carry_out(stocked, training.id))
    assert (ended.state, ended.attempt) == ("failed", 3)
    assert ended.error == f"attempt 3 of 3 ended with code 3: {LAST_WORDS} 3\n"
    assert statuses == [[], ["KILLED"], ["KILLED", "KILLED"]]
    assert [client.get_run(run_id).info.status for run_id in runs] == ["KILLED"] * 3
    for attempt in (1, 2, 3):
        log = build_log_path(stocked, replace(ended, attempt=attempt)).read_text(encoding="utf-8")
        assert log == f"{LAST_WORDS} {attempt}\n"


def test_every_attempt_trains_on_the_same_snapshot(stocked: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    training = request(stocked)
    first = prepare_attempt(stocked, training.id, 3)
    bring_rows(stocked, 90)
    second = prepare_attempt(stocked, training.id, 3)
    assert first.snapshot_digest is not None
    assert (second.snapshot_digest, second.attempt) == (first.snapshot_digest, 2)


def test_training_without_rows_fails_with_the_reason_and_is_not_tried_again(connections: Connections) -> None:
    training = request(connections)
    ended = asyncio.run(carry_out(connections, training.id))
    assert (ended.state, ended.attempt) == ("failed", 1)
    assert ended.error is not None and "no rows were taken in yet" in ended.error


def test_too_few_rows_found_by_the_child_fail_the_training_and_are_not_tried_again(
    connections: Connections, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_rows(connections, 35)
    training = request(connections, parameters={"sequence_length": 34})
    command = [sys.executable, "-m", "jobs.project", "train", "prices", f"--training={training.id}", "--attempt=1"]
    monkeypatch.setattr(training_module, "_build_command", lambda _connections, _training: command)
    ended = asyncio.run(carry_out(connections, training.id))
    assert (ended.state, ended.attempt) == ("failed", 1)
    assert ended.error is not None and "1 windows of 34 steps are too few" in ended.error
    assert ended.run_id is not None
    run = client.get_run(ended.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["millrace.error"] == ended.error


def test_child_that_takes_too_long_is_ended_and_the_training_fails(
    stocked: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, "import time; time.sleep(60)")
    training = request(stocked)
    ended = asyncio.run(carry_out(change_settings(stocked, training_timeout_s=1.0), training.id))
    assert ended.state == "failed"
    assert ended.error is not None and re.match(r"It was stopped after \d s: 1 s are allowed\.", ended.error)


def test_child_that_takes_too_much_memory_is_ended_and_the_training_fails(
    stocked: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, "import time; held = bytearray(b'x' * 2**27); time.sleep(60)")
    training = request(stocked)
    ended = asyncio.run(carry_out(change_settings(stocked, job_memory_max_bytes=2**26), training.id))
    assert (ended.state, ended.attempt) == ("failed", 1)
    assert ended.error is not None and "64 MiB are allowed" in ended.error


def test_workload_has_limits_of_its_own(stocked: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "import time; time.sleep(60)")
    limited = replace(get_workload("prices"), limits=Limits(timeout_s=1.0))
    monkeypatch.setattr(training_module, "get_workload", lambda _name: limited)
    ended = asyncio.run(carry_out(stocked, request(stocked).id))
    assert ended.error is not None and "1 s are allowed" in ended.error


def test_running_training_that_is_cancelled_is_stopped_and_its_run_is_killed(
    stocked: Connections, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def build(connections: Connections, attempted: Training) -> list[str]:
        runs.append(connections.tracking.start_run("prices", None, {"millrace.training_id": str(attempted.id)}))
        with connections.engine.begin() as connection:
            cancel_job(connection, attempted.id, actor="ann")
        return [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]

    monkeypatch.setattr(training_module, "_build_command", build)
    ended = asyncio.run(carry_out(stocked, request(stocked).id))
    assert (ended.state, ended.attempt, ended.error) == ("cancelled", 1, "cancelled by ann")
    assert [client.get_run(run_id).info.status for run_id in runs] == ["KILLED"]
    with stocked.engine.connect() as connection:
        assert connection.scalar(text("SELECT settled_at IS NOT NULL FROM trainings"))


def test_last_words_are_kept_without_secrets(stocked: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "import os; raise SystemExit(os.environ['DATABASE_URL'])")
    ended = asyncio.run(carry_out(change_settings(stocked, training_attempts=1), request(stocked).id))
    assert ended.error is not None and ":***@" in ended.error
    assert str(stocked.engine.url.password) not in ended.error


def test_training_whose_verdict_was_carried_out_before_its_last_attempt_died_is_finished(
    stocked: Connections, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(connections: Connections, attempted: Training) -> list[str]:
        run_id = connections.tracking.start_run("prices", None, {"millrace.training_id": str(attempted.id)})
        version = connections.registry.register("prices", run_id, f"runs:/{run_id}/version", {}).version
        verdict = Verdict("prices", version, None, "promote", "the first", ())
        with connections.engine.begin() as connection:
            verdict_id = store_verdict(connection, verdict, attempted.id)
            made: dict[str, object] = {"run_id": run_id, "version": version, "verdict_id": verdict_id}
            record_step(connection, attempted.id, attempted.attempt, step="transition", progress=0.97, **made)
        named = {"actor": "tests", "cause": "gate", "verdict_id": verdict_id}
        promote(connections.engine, connections.registry, "prices", version, **named)  # type: ignore[arg-type]  # as they are
        return [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]

    monkeypatch.setattr(training_module, "_build_command", build)
    ended = asyncio.run(carry_out(change_settings(stocked, training_attempts=1), request(stocked).id))
    assert (ended.state, ended.error) == ("finished", None)
    assert client.get_run(str(ended.run_id)).info.status == "FINISHED"


def test_training_of_a_workload_that_is_gone_fails(connections: Connections) -> None:
    training = request(connections, "no_such_workload")
    ended = asyncio.run(carry_out(connections, training.id))
    assert (ended.state, ended.attempt) == ("failed", 1)
    assert ended.error is not None and "There is no workload 'no_such_workload'" in ended.error


def test_training_that_has_ended_is_left_as_it_is(stocked: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at_once(monkeypatch)
    training = request(stocked)
    ended = asyncio.run(carry_out(stocked, training.id))
    assert asyncio.run(carry_out(stocked, training.id)) == ended


async def work_once(connections: Connections) -> None:
    """Run the jobs that are in the trainings' queue."""
    app = build_queue_app(connections.database_url)
    add_tasks(app, connections)
    async with app.open_async():
        await app.run_worker_async(queues=[QUEUES["train"]], wait=False, install_signal_handlers=False)


def test_an_unexpected_error_cannot_bring_a_training_back_for_ever(
    stocked: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_connections: Connections, _training: Training) -> list[str]:
        raise ZeroDivisionError(uuid.uuid4().hex)

    monkeypatch.setattr(training_module, "_build_command", fail)
    training = request(stocked)
    rounds = 0
    while load(stocked, training.id).is_open:
        rounds += 1
        assert rounds <= 4
        asyncio.run(work_once(stocked))
        recover_jobs(stocked)
    ended = load(stocked, training.id)
    assert (ended.state, ended.error) == ("failed", "3 attempts ended without a verdict")
    assert len(load_jobs(stocked, training.id)) == 4
    recover_jobs(stocked)
    assert len(load_jobs(stocked, training.id)) == 4
