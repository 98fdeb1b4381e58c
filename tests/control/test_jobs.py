"""Jobs over HTTP: listed, shown with their log, cancelled and repeated."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.job_lines import append_lines
from core.trainings import fail_training, start_attempt
from tests.accounts import ACTOR
from tests.control.running import Controlled


def ask(controlled: Controlled) -> str:
    return str(controlled.client.post("/models/prices/trainings").json()["id"])


def fail(controlled: Controlled, job_id: str) -> None:
    with controlled.connections.engine.begin() as connection:
        attempt = start_attempt(connection, uuid.UUID(job_id)).attempt
        append_lines(connection, uuid.UUID(job_id), attempt, ["one", "two", "three"])
        fail_training(connection, uuid.UUID(job_id), attempt, "too few rows")


def test_job_is_shown_with_the_end_of_its_log(controlled: Controlled) -> None:
    job_id = ask(controlled)
    fail(controlled, job_id)
    document = controlled.client.get(f"/jobs/{job_id}", params={"lines": 2}).json()
    assert (document["kind"], document["model"], document["state"]) == ("training", "prices", "failed")
    assert (document["error"], document["actor"], document["attempts"]) == ("too few rows", ACTOR, 1)
    assert [(line["text"], line["attempt"]) for line in document["log"]] == [("two", 1), ("three", 1)]
    assert controlled.client.get(f"/trainings/{job_id}").json()["id"] == job_id


def test_jobs_are_listed_by_model_state_and_kind(controlled: Controlled) -> None:
    training = ask(controlled)
    check = controlled.client.post("/models/prices/checks").json()["job_id"]

    def list_ids(**wanted: str | int) -> list[str]:
        return [job["id"] for job in controlled.client.get("/jobs", params=wanted).json()]

    assert list_ids() == [check, training]
    assert list_ids(limit=1) == [check]
    assert list_ids(kind="training") == [training]
    assert list_ids(model="prices", state="queued") == [check, training]
    assert list_ids(model="books") == list_ids(state="failed") == []


@pytest.mark.parametrize(
    "wanted", [{"kind": "x"}, {"state": "done"}, {"model": "../x"}, {"limit": 0}, {"limit": "many"}, {"model": "a\x00"}]
)
def test_filters_that_are_not_allowed_are_refused(steady: Controlled, wanted: dict[str, str]) -> None:
    assert steady.client.get("/jobs", params=wanted).status_code == 422


@pytest.mark.parametrize("act", [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")])
def test_job_id_that_is_none_or_unknown_is_refused(steady: Controlled, act: tuple[str, str]) -> None:
    method, end = act
    for rubbish in ("7", "x" * 5000, "%00", "1 OR 1=1", "%F0%9F%92%A9", "..%2F..%2Fetc"):
        answer = steady.client.request(method, f"/jobs/{rubbish}{end}")
        assert answer.status_code in (404, 422), rubbish
        assert answer.headers["content-type"] == "application/problem+json"
    unknown = steady.client.request(method, f"/jobs/{uuid.uuid4()}{end}")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/job-not-found")


def test_queued_job_is_cancelled_at_once_and_twice_is_as_good(controlled: Controlled) -> None:
    job_id = ask(controlled)
    answers = [controlled.client.post(f"/jobs/{job_id}/cancel") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (answers[0].json()["state"], answers[0].json()["error"]) == ("cancelled", f"cancelled by {ACTOR}")
    assert answers[1].json() == answers[0].json()
    assert controlled.client.get(f"/trainings/{job_id}").json()["state"] == "cancelled"


def test_job_that_has_ended_is_not_cancelled(controlled: Controlled) -> None:
    job_id = ask(controlled)
    fail(controlled, job_id)
    refused = controlled.client.post(f"/jobs/{job_id}/cancel")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/job-has-ended")


def test_failed_training_that_is_retried_twice_at_once_is_repeated_once(controlled: Controlled) -> None:
    job_id = ask(controlled)
    fail(controlled, job_id)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: controlled.client.post(f"/jobs/{job_id}/retry"), range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 202]
    (again,) = {answer.json()["id"] for answer in answers}
    assert {answer.headers["location"] for answer in answers} == {f"/jobs/{again}"}
    assert controlled.client.get(f"/jobs/{again}").json()["repeats_id"] == job_id


def test_what_is_not_a_failed_training_is_not_retried(controlled: Controlled) -> None:
    for job_id in (ask(controlled), controlled.client.post("/models/prices/checks").json()["job_id"]):
        refused = controlled.client.post(f"/jobs/{job_id}/retry")
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/job-not-repeatable")
