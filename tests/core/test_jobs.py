"""Jobs: one view of trainings, checks and pulls; cancelled in time, repeated once."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert, text, update

from core.checks import fail_check, finish_check, request_check, start_check
from core.job_errors import (
    AnotherTrainingOpen,
    CancelledTooLate,
    JobHasEnded,
    JobNotFound,
    JobNotRepeatable,
    JobNotStoppable,
    TrainingEnded,
)
from core.job_lines import KEPT_LINES, MAX_LINE_CHARS, append_lines, load_last_lines, load_lines_after
from core.job_queue import enqueue
from core.jobs import Job, cancel_job, get_job, load_jobs, retry_job
from core.tables.data import pulls, snapshots
from core.tables.trainings import trainings
from core.trainings import fail_training, finish_training, hold_attempt, record_step, request_training, start_attempt
from core.transitions import store_transition
from core.verdicts import Verdict, store_verdict

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def ask_training(engine: Engine, model: str = "prices") -> uuid.UUID:
    with engine.begin() as connection:
        return request_training(connection, model, cause="hand", actor="ann", parameters={"seed": 3})[0].id


def ask_check(engine: Engine, model: str = "prices") -> uuid.UUID:
    with engine.begin() as connection:
        return request_check(connection, model, actor="schedule")


def ask_pull(engine: Engine, state: str = "queued", **values: object) -> uuid.UUID:
    pull_id = uuid.uuid4()
    row = {"id": pull_id, "model": "prices", "source": "daily", "state": state, "address_sha256": "0" * 64, **values}
    with engine.begin() as connection:
        job_id = enqueue(connection, "pull", model="prices", source="daily", pull_id=str(pull_id))
        connection.execute(insert(pulls).values(row | {"job_id": job_id}))
    return pull_id


def load(engine: Engine, job_id: uuid.UUID) -> Job:
    with engine.connect() as connection:
        return get_job(connection, job_id)


def count_queued(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")) or 0


def start(engine: Engine, training_id: uuid.UUID) -> int:
    with engine.begin() as connection:
        return start_attempt(connection, training_id).attempt


# --- one view ----------------------------------------------------------------------------------------------------


def test_jobs_of_every_kind_are_listed_newest_first_under_the_ids_of_what_they_carry_out(engine: Engine) -> None:
    asked = [ask_training(engine), ask_check(engine), ask_pull(engine), ask_training(engine, "books")]
    with engine.connect() as connection:
        assert [job.id for job in load_jobs(connection)] == asked[::-1]
        assert [job.kind for job in load_jobs(connection)] == ["training", "pull", "check", "training"]
        assert [job.id for job in load_jobs(connection, limit=2)] == [asked[3], asked[2]]
        assert [job.id for job in load_jobs(connection, model="books")] == [asked[3]]
        assert [job.id for job in load_jobs(connection, kind="check")] == [asked[1]]
        assert load_jobs(connection, state="running") == []
    assert {job_id: load(engine, job_id).id for job_id in asked} == {job_id: job_id for job_id in asked}


def test_training_is_followed_from_its_request_to_what_it_made(engine: Engine) -> None:
    job_id = ask_training(engine)
    queued = load(engine, job_id)
    assert (queued.state, queued.step, queued.progress, queued.attempts, queued.worker) == ("queued",) * 2 + (
        0,
        0,
        None,
    )
    attempt = start(engine, job_id)
    with engine.begin() as connection:
        record_step(connection, job_id, attempt, step="fit", progress=0.25, run_id="r1")
    running = load(engine, job_id)
    assert (running.state, running.step, running.progress, running.attempts) == ("running", "fit", 0.25, 1)
    assert running.worker is not None and ":" in running.worker
    with engine.begin() as connection:
        finish_training(connection, job_id, attempt, version=4)
    ended = load(engine, job_id)
    assert (ended.state, ended.progress, ended.error) == ("finished", 1.0, None)
    assert ended.result == {"run_id": "r1", "version": 4}
    assert ended.started_at is not None and ended.finished_at is not None


def test_check_is_followed_to_its_finding_or_its_error(engine: Engine) -> None:
    found, failed, finding = ask_check(engine), ask_check(engine), uuid.uuid4()
    for check_id in (found, failed):
        with engine.begin() as connection:
            check = start_check(connection, check_id)
        assert check is not None and check.attempt == 1
    with engine.begin() as connection:
        finish_check(connection, found, finding)
        fail_check(connection, failed, "no version in Production")
        # Too late.
        fail_check(connection, found, "x")
        assert start_check(connection, found) is None
    assert (load(engine, found).state, load(engine, found).result) == ("finished", {"finding_id": str(finding)})
    assert (load(engine, failed).state, load(engine, failed).error) == ("failed", "no version in Production")


@pytest.mark.parametrize(
    ("stored", "state", "result"),
    [
        ("queued", "queued", {"source": "daily"}),
        ("running", "running", {"source": "daily"}),
        ("imported", "finished", {"source": "daily", "outcome": "imported"}),
        ("unchanged", "finished", {"source": "daily", "outcome": "unchanged"}),
        ("rejected", "failed", {"source": "daily", "outcome": "rejected"}),
        ("failed", "failed", {"source": "daily", "outcome": "failed"}),
    ],
)
def test_pull_is_a_job_whose_result_says_what_became_of_it(
    engine: Engine, stored: str, state: str, result: dict[str, str]
) -> None:
    job = load(engine, ask_pull(engine, stored))
    assert (job.state, job.step, job.result, job.actor) == (state, stored, result, "schedule")
    with engine.connect() as connection:
        assert [found.id for found in load_jobs(connection, state=job.state)] == [job.id]


def test_unknown_job_is_named(engine: Engine) -> None:
    unknown = uuid.uuid4()
    with engine.begin() as connection:
        for act in (get_job, lambda *a: cancel_job(*a, actor="ann"), lambda *a: retry_job(*a, actor="ann")):
            with pytest.raises(JobNotFound, match=str(unknown)):
                act(connection, unknown)


# --- cancelled ---------------------------------------------------------------------------------------------------


def test_queued_job_of_every_kind_is_cancelled_at_once_and_leaves_the_queue(engine: Engine) -> None:
    for ask in (ask_training, ask_check, ask_pull):
        job_id = ask(engine)
        assert count_queued(engine) == 1
        with engine.begin() as connection:
            cancelled = cancel_job(connection, job_id, actor="ann")
            assert cancel_job(connection, job_id, actor="bob") == cancelled
        assert (cancelled.state, cancelled.error) == ("cancelled", "cancelled by ann")
        assert count_queued(engine) == 0


def test_cancelled_training_can_do_nothing_more_and_frees_its_model(engine: Engine) -> None:
    job_id = ask_training(engine)
    attempt = start(engine, job_id)
    with engine.begin() as connection:
        cancel_job(connection, job_id, actor="ann")
    with engine.begin() as connection:
        with pytest.raises(TrainingEnded, match="is cancelled"):
            hold_attempt(connection, job_id, attempt)
        with pytest.raises(TrainingEnded):
            finish_training(connection, job_id, attempt)
    assert start(engine, job_id) == attempt
    assert ask_training(engine) != job_id


def test_job_that_has_ended_or_cannot_be_stopped_is_not_cancelled(engine: Engine) -> None:
    training, check, pull = ask_training(engine), ask_check(engine), ask_pull(engine, "running")
    attempt = start(engine, training)
    with engine.begin() as connection:
        fail_training(connection, training, attempt, "x")
        finish_check(connection, check, uuid.uuid4())
        for job_id, error in ((training, JobHasEnded), (check, JobHasEnded), (pull, JobNotStoppable)):
            with pytest.raises(error, match=str(job_id)):
                cancel_job(connection, job_id, actor="ann")


def test_training_is_not_cancelled_once_its_version_takes_production(engine: Engine) -> None:
    job_id = ask_training(engine)
    attempt = start(engine, job_id)
    with engine.begin() as connection:
        verdict_id = store_verdict(connection, Verdict("prices", 1, None, "promote", "first", ()), job_id)
        record_step(connection, job_id, attempt, step="transition", progress=0.97, verdict_id=verdict_id)
        store_transition(
            connection,
            model="prices",
            version=1,
            from_stage="None",
            to_stage="Production",
            previous_version=None,
            state="intended",
            origin="platform",
            actor="ann",
            cause="gate",
            reason="",
            verdict_id=verdict_id,
        )
        with pytest.raises(CancelledTooLate, match="rollback"):
            cancel_job(connection, job_id, actor="ann")


def test_of_a_cancellation_and_an_end_at_once_one_wins_and_the_other_hears_of_it(engine: Engine) -> None:
    for _ in range(10):
        job_id = ask_training(engine)
        attempt = start(engine, job_id)

        def cancel(job_id: uuid.UUID = job_id) -> str:
            with engine.begin() as connection:
                return cancel_job(connection, job_id, actor="ann").state

        def finish(job_id: uuid.UUID = job_id, attempt: int = attempt) -> str:
            with engine.begin() as connection:
                finish_training(connection, job_id, attempt)
            return "finished"

        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(act) for act in (cancel, finish)]
        errors = [one.exception() for one in done]
        assert sorted(error is None for error in errors) == [False, True]
        assert isinstance(next(error for error in errors if error), JobHasEnded | TrainingEnded)
        assert load(engine, job_id).state == next(one.result() for one in done if one.exception() is None)


# --- repeated ----------------------------------------------------------------------------------------------------


def fail(engine: Engine, job_id: uuid.UUID) -> None:
    attempt = start(engine, job_id)
    with engine.begin() as connection:
        fail_training(connection, job_id, attempt, "too few rows")


def test_failed_training_is_repeated_from_its_snapshot_by_a_new_one_that_names_it(engine: Engine) -> None:
    failed = ask_training(engine)
    with engine.begin() as connection:
        snapshot = {"digest": "d1", "model": "prices", "uri": "u", "rows": 1, "bytes": 1, "query": {}}
        connection.execute(insert(snapshots).values(snapshot))
        connection.execute(update(trainings).values(snapshot_digest="d1"))
    fail(engine, failed)
    with engine.begin() as connection:
        again, is_new = retry_job(connection, failed, actor="bob")
    assert is_new and again.id != failed
    assert (again.state, again.actor, again.repeats_id, again.snapshot_digest, again.parameters) == (
        "queued",
        "bob",
        failed,
        "d1",
        {"seed": 3},
    )
    assert load(engine, again.id).repeats_id == failed
    assert load(engine, failed).state == "failed"


def test_training_that_is_retried_eight_times_at_once_is_repeated_once(engine: Engine) -> None:
    failed = ask_training(engine)
    fail(engine, failed)

    def retry(_number: int) -> tuple[uuid.UUID, bool]:
        with engine.begin() as connection:
            training, is_new = retry_job(connection, failed, actor="ann")
            return training.id, is_new

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(retry, range(8)))
    assert len({training_id for training_id, _ in answers}) == 1
    assert [is_new for _, is_new in answers].count(True) == 1
    assert count_queued(engine) == 2  # with the first one's own, which no worker took


def test_what_cannot_be_repeated_is_refused(engine: Engine) -> None:
    failed = ask_training(engine)
    fail(engine, failed)
    check, pull, other = ask_check(engine), ask_pull(engine, "failed"), ask_training(engine)
    with engine.begin() as connection:
        for job_id, error in (
            (failed, AnotherTrainingOpen),
            (other, JobNotRepeatable),
            (check, JobNotRepeatable),
            (pull, JobNotRepeatable),
        ):
            with pytest.raises(error):
                retry_job(connection, job_id, actor="ann")


# --- lines -------------------------------------------------------------------------------------------------------


def test_of_a_job_the_last_lines_are_kept_in_their_order(engine: Engine) -> None:
    job_id, other = uuid.uuid4(), uuid.uuid4()
    with engine.begin() as connection:
        append_lines(connection, other, 1, ["other"])
        append_lines(connection, job_id, 1, [f"line {number}" for number in range(KEPT_LINES)])
        append_lines(connection, job_id, 2, ["x" * (MAX_LINE_CHARS + 5), "last"])
        lines = load_lines_after(connection, job_id, 0, KEPT_LINES + 1)
        assert len(lines) == KEPT_LINES
        assert (lines[0].text, lines[-2].text, lines[-1].text) == ("line 2", "x" * MAX_LINE_CHARS, "last")
        assert (lines[0].attempt, lines[-1].attempt) == (1, 2)
        assert load_last_lines(connection, job_id, 2) == lines[-2:]
        assert load_lines_after(connection, job_id, lines[-2].number, 10) == lines[-1:]
        assert [line.text for line in load_last_lines(connection, other, 9)] == ["other"]
