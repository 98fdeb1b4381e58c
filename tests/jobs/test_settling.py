"""What an ended training left half done in MLflow is cleared away, by whoever comes to it."""

import uuid
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from sqlalchemy import text

from core.checks import request_check
from core.connections import Connections
from core.jobs import cancel_job, get_job
from core.trainings import Training, fail_training, finish_training, start_attempt
from core.verdicts import Verdict, store_verdict
from jobs.recovery import recover_jobs
from jobs.settling import settle_training
from tests.jobs.requesting import change_settings, load, request


@pytest.fixture
def begun(connections: Connections, model: str) -> Training:
    """A training of a model of the test's own with one attempt, in whose name one run and its child run are open."""
    training = request(connections, model)
    with connections.engine.begin() as connection:
        training = start_attempt(connection, training.id)
    run_id = start_run(connections, training)
    connections.tracking.start_run(model, None, {"mlflow.parentRunId": run_id})
    with connections.engine.begin() as connection:
        connection.execute(text("UPDATE trainings SET run_id = :run"), {"run": run_id})
    return replace(training, run_id=run_id)


def start_run(connections: Connections, training: Training) -> str:
    return connections.tracking.start_run(training.model, None, {"millrace.training_id": str(training.id)})


def register(connections: Connections, training: Training) -> int:
    tags = {"millrace.training_id": str(training.id), "millrace.attempt": "1"}
    source = f"runs:/{training.run_id}/version"
    return connections.registry.register(training.model, str(training.run_id), source, tags).version


def load_runs(connections: Connections, model: str) -> list[tuple[str, str]]:
    address = connections.settings.tracking_address
    client = MlflowClient(address, address)
    experiment = client.get_experiment_by_name(model)
    assert experiment is not None
    return [(run.info.run_id, run.info.status) for run in client.search_runs([experiment.experiment_id])]


def load_versions(connections: Connections, model: str) -> list[int]:
    return [found.version for found in connections.registry.load_versions(model)]


def end_job(connections: Connections) -> None:
    """As a worker leaves it that was killed: begun, and never ended."""
    with connections.engine.begin() as connection:
        connection.execute(text("UPDATE procrastinate_jobs SET status = 'doing', worker_id = NULL"))


def test_runs_of_a_finished_training_end_as_finished_and_those_of_earlier_attempts_as_killed(
    connections: Connections, begun: Training
) -> None:
    earlier = start_run(connections, begun)
    version = register(connections, begun)
    leftover = register(connections, begun)
    with connections.engine.begin() as connection:
        store_verdict(connection, Verdict(begun.model, version, None, "keep", "a tie", ()), begun.id)
        finish_training(connection, begun.id, 1, version=version)
    end_job(connections)
    recover_jobs(connections)
    statuses = dict(load_runs(connections, begun.model))
    assert statuses.pop(earlier) == "KILLED"
    assert list(statuses.values()) == ["FINISHED", "FINISHED"]
    assert leftover != version and load_versions(connections, begun.model) == [version]


def test_failed_training_keeps_a_version_with_its_verdict_and_loses_one_without(
    connections: Connections, begun: Training
) -> None:
    version, leftover = register(connections, begun), register(connections, begun)
    with connections.engine.begin() as connection:
        store_verdict(connection, Verdict(begun.model, version, None, "promote", "first", ()), begun.id)
        fail_training(connection, begun.id, 1, "x")
    for _ in range(2):
        settle_training(connections, load(connections, begun.id))
        assert load_versions(connections, begun.model) == [version] and leftover != version
    assert [status for _, status in load_runs(connections, begun.model)] == ["KILLED", "KILLED"]


def test_cancelled_training_leaves_no_version_but_one_that_a_person_took_on(
    connections: Connections, begun: Training
) -> None:
    version, taken = register(connections, begun), register(connections, begun)
    connections.registry.move_to_production(begun.model, taken)
    with connections.engine.begin() as connection:
        store_verdict(connection, Verdict(begun.model, version, None, "promote", "first", ()), begun.id)
        cancel_job(connection, begun.id, actor="ann")
    settle_training(connections, load(connections, begun.id))
    assert load_versions(connections, begun.model) == [taken]


def test_training_that_its_worker_is_still_ending_is_left_to_it(connections: Connections, begun: Training) -> None:
    with connections.engine.begin() as connection:
        worker = connection.scalar(text("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id"))
        connection.execute(
            text("UPDATE procrastinate_jobs SET status = 'doing', worker_id = :worker"), {"worker": worker}
        )
        cancel_job(connection, begun.id, actor="ann")
    recover_jobs(connections)
    assert [status for _, status in load_runs(connections, begun.model)] == ["RUNNING", "RUNNING"]
    end_job(connections)
    recover_jobs(connections)
    assert [status for _, status in load_runs(connections, begun.model)] == ["KILLED", "KILLED"]
    with connections.engine.connect() as connection:
        assert connection.scalar(text("SELECT settled_at IS NOT NULL FROM trainings"))


def test_check_that_lost_its_worker_is_begun_again_as_often_as_is_allowed(connections: Connections) -> None:
    connections = change_settings(connections, training_attempts=2)
    with connections.engine.begin() as connection:
        check_id = request_check(connection, "prices", actor="tests")

    def lose(attempt: int) -> tuple[str, int]:
        with connections.engine.begin() as connection:
            connection.execute(text("UPDATE checks SET state = 'running', attempt = :n"), {"n": attempt})
        end_job(connections)
        recover_jobs(connections)
        with connections.engine.connect() as connection:
            waiting = connection.scalar(text("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'"))
            return get_job(connection, check_id).state, int(waiting or 0)

    assert lose(1) == ("running", 1)
    assert lose(2) == ("failed", 0)
    with connections.engine.connect() as connection:
        assert get_job(connection, uuid.UUID(str(check_id))).error == "2 attempts lost their worker"
