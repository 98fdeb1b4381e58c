"""Jobs that lost their worker or their process, and those that did not."""

import json
import uuid

import pytest
from mlflow import MlflowClient
from sqlalchemy import text

from core.connections import Connections
from core.findings import load_findings, store_finding
from core.trainings import Training, hold_alive, start_attempt
from jobs.recovery import recover_jobs
from tests.core.test_findings import build_finding
from tests.jobs.requesting import change_settings, load, load_jobs, request

TIMEOUT_S = 30.0


@pytest.fixture
def connections(connections: Connections) -> Connections:
    return change_settings(connections, worker_timeout_s=TIMEOUT_S)


def execute(connections: Connections, statement: str, **values: object) -> None:
    with connections.engine.begin() as connection:
        connection.execute(text(statement), values)


def give_to_worker(connections: Connections, training: Training, silent_s: float) -> None:
    """Let a worker that gave its last heartbeat `silent_s` ago have the training's job."""
    with connections.engine.begin() as connection:
        worker = connection.scalar(
            text(
                "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => :silent))"
                " RETURNING id"
            ),
            {"silent": silent_s},
        )
        job = load_jobs(connections, training.id)[-1][0]
        connection.execute(
            text("UPDATE procrastinate_jobs SET status = 'doing', worker_id = :worker WHERE id = :job"),
            {"worker": worker, "job": job},
        )
        start_attempt(connection, training.id)


def test_queued_training_and_one_with_a_living_worker_are_left_alone(connections: Connections) -> None:
    queued, running = request(connections, "queued"), request(connections, "running")
    give_to_worker(connections, running, silent_s=TIMEOUT_S / 2)
    recover_jobs(connections)
    assert [status for _, status in load_jobs(connections, queued.id)] == ["todo"]
    assert [status for _, status in load_jobs(connections, running.id)] == ["doing"]
    assert load(connections, running.id).attempt == 1


def test_training_of_a_silent_worker_is_enqueued_again_once(connections: Connections) -> None:
    training = request(connections, "silent")
    give_to_worker(connections, training, silent_s=TIMEOUT_S * 2)
    for _ in range(3):
        recover_jobs(connections)
        assert [status for _, status in load_jobs(connections, training.id)] == ["failed", "todo"]


@pytest.mark.parametrize(
    "fault",
    [
        "DELETE FROM procrastinate_jobs WHERE args->>'training_id' = :id",
        "UPDATE procrastinate_jobs SET status = 'failed' WHERE args->>'training_id' = :id",
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = NULL WHERE args->>'training_id' = :id",
    ],
)
def test_training_whose_job_is_gone_has_ended_or_has_no_worker_is_enqueued_again(
    connections: Connections, fault: str
) -> None:
    training = request(connections, "lost")
    execute(connections, fault, id=str(training.id))
    recover_jobs(connections)
    recover_jobs(connections)
    assert [status for _, status in load_jobs(connections, training.id)].count("todo") == 1
    assert load(connections, training.id).is_open


def test_training_that_has_ended_is_never_enqueued_again(connections: Connections) -> None:
    training = request(connections, "ended")
    execute(connections, "UPDATE trainings SET state = 'finished' WHERE id = :id", id=training.id)
    execute(connections, "UPDATE procrastinate_jobs SET status = 'succeeded'")
    recover_jobs(connections)
    assert [status for _, status in load_jobs(connections, training.id)] == ["succeeded"]


# --- trainings of a person's own process -------------------------------------------------------------------------


def age(connections: Connections, training: Training) -> None:
    execute(
        connections,
        "UPDATE trainings SET requested_at = now() - interval '1 minute' WHERE id = :id",
        id=training.id,
    )


def test_training_of_a_process_that_ended_has_failed_and_its_run_is_killed(
    connections: Connections, tracking_server: str
) -> None:
    model = f"own_{uuid.uuid4().hex[:8]}"
    training = request(connections, model, is_enqueued=False)
    run_id = connections.tracking.start_run(model, None, {"millrace.training_id": str(training.id)})
    age(connections, training)
    with hold_alive(connections.engine, training.id):
        recover_jobs(connections)
        assert load(connections, training.id).state == "queued"
    recover_jobs(connections)
    ended = load(connections, training.id)
    assert (ended.state, ended.error) == ("failed", "its process ended without a verdict")
    assert MlflowClient(tracking_server).get_run(run_id).info.status == "KILLED"
    assert load_jobs(connections, training.id) == []


def test_training_whose_process_has_only_begun_is_left_alone(connections: Connections) -> None:
    training = request(connections, "young", is_enqueued=False)
    recover_jobs(connections)
    assert load(connections, training.id).state == "queued"


# --- reports and housekeeping, which the queue alone knows --------------------------------------------------------


def add_job(connections: Connections, task: str, *, status: str, lock: str | None = None, attempts: int = 0) -> int:
    """A job as a worker that is gone left it."""
    statement = text(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, status, attempts)"
        " VALUES ('any', :task, :lock, CAST(:status AS procrastinate_job_status), :attempts) RETURNING id"
    )
    values = {"task": task, "lock": lock, "status": status, "attempts": attempts}
    with connections.engine.begin() as connection:
        return int(connection.execute(statement, values).scalar_one())


def load_status(connections: Connections, job_id: int) -> str:
    with connections.engine.connect() as connection:
        statement = text("SELECT status::text FROM procrastinate_jobs WHERE id = :id")
        return str(connection.execute(statement, {"id": job_id}).scalar_one())


@pytest.mark.parametrize("status", ["doing", "aborted"])
@pytest.mark.parametrize("task", ["report", "check_all", "clean_up", "keep_partitions", "deliver_alerts"])
def test_job_of_any_kind_whose_worker_is_gone_is_enqueued_again(
    connections: Connections, task: str, status: str
) -> None:
    job_id = add_job(connections, task, status=status)
    recover_jobs(connections)
    assert load_status(connections, job_id) == "todo"


def test_lost_housekeeping_makes_way_for_the_next_of_its_kind_that_waits(connections: Connections) -> None:
    lost = add_job(connections, "clean_up", status="doing", lock="clean_up")
    waiting = add_job(connections, "clean_up", status="todo", lock="clean_up")
    recover_jobs(connections)
    assert (load_status(connections, lost), load_status(connections, waiting)) == ("failed", "todo")


def test_report_that_took_its_workers_along_as_often_as_is_allowed_has_failed_and_people_see_it(
    connections: Connections,
) -> None:
    finding = build_finding(outcome="fine")
    with connections.engine.begin() as connection:
        store_finding(connection, finding)
    job_id = add_job(connections, "report", status="doing", attempts=connections.settings.training_attempts - 1)
    arguments = json.dumps({"model": finding.model, "finding_id": str(finding.id)})
    execute(
        connections,
        "UPDATE procrastinate_jobs SET args = CAST(:args AS jsonb) WHERE id = :id",
        args=arguments,
        id=job_id,
    )
    recover_jobs(connections)
    assert load_status(connections, job_id) == "failed"
    with connections.engine.connect() as connection:
        (failure,) = load_findings(connection, finding.model, subject="check")
    assert "3 attempts lost their worker" in failure.reasons[0]
