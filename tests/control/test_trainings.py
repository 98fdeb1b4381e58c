"""Trainings over HTTP."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from core.trainings import fail_training, finish_training, start_attempt
from core.verdicts import Check, Verdict, store_verdict
from tests.accounts import ACTOR
from tests.control.running import Controlled


def test_training_request_is_queued_with_its_job_in_one_transaction(controlled: Controlled) -> None:
    response = controlled.client.post(
        "/models/prices/trainings", json={"parameters": {"max_epochs": 3, "dropout": 0.1}}
    )
    assert response.status_code == 202
    document = response.json()
    assert response.headers["location"] == f"/trainings/{document['id']}"
    assert (document["state"], document["cause"], document["actor"]) == ("queued", "hand", ACTOR)
    assert document["parameters"] == {"max_epochs": 3, "dropout": 0.1}
    with controlled.connections.engine.connect() as connection:
        jobs = connection.execute(text("SELECT task_name, args FROM procrastinate_jobs")).all()
    assert [tuple(job) for job in jobs] == [("train", {"training_id": document["id"]})]
    assert controlled.client.get(response.headers["location"]).json() == document


def test_second_training_request_is_answered_by_the_first(controlled: Controlled) -> None:
    first = controlled.client.post("/models/prices/trainings")
    second = controlled.client.post("/models/prices/trainings", json={"parameters": {"max_epochs": 9}})
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    with controlled.connections.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM procrastinate_jobs")) == 1


def test_training_requests_at_once_are_one_training(controlled: Controlled) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: controlled.client.post("/models/prices/trainings"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_training_shows_its_verdict_check_by_check(controlled: Controlled) -> None:
    training_id = uuid.UUID(controlled.client.post("/models/prices/trainings").json()["id"])
    checks = (Check("baseline", True, 0.9, 1.0, "better than persistence"), Check("paired", False, None, 0.0, "a tie"))
    verdict = Verdict("prices", 2, 1, "keep", "a tie keeps the champion", checks)
    with controlled.connections.engine.begin() as connection:
        attempt = start_attempt(connection, training_id).attempt
        verdict_id = store_verdict(connection, verdict, training_id)
        finish_training(connection, training_id, attempt, run_id="r1", version=2, verdict_id=verdict_id)
    document = controlled.client.get(f"/trainings/{training_id}").json()
    assert (document["state"], document["version"], document["run_id"], document["progress"]) == (
        "finished",
        2,
        "r1",
        1,
    )
    assert document["verdict"]["outcome"] == "keep"
    assert [(check["name"], check["has_passed"], check["value"]) for check in document["verdict"]["checks"]] == [
        ("baseline", True, 0.9),
        ("paired", False, None),
    ]
    (listed,) = controlled.client.get("/models/prices/verdicts").json()
    assert listed["id"] == str(verdict_id)
    assert listed["verdict"] == document["verdict"]


def test_failed_training_shows_its_error_and_frees_the_model(controlled: Controlled) -> None:
    first = controlled.client.post("/models/prices/trainings").json()["id"]
    with controlled.connections.engine.begin() as connection:
        attempt = start_attempt(connection, uuid.UUID(first)).attempt
        fail_training(connection, uuid.UUID(first), attempt, "too few rows")
    assert controlled.client.get(f"/trainings/{first}").json()["error"] == "too few rows"
    second = controlled.client.post("/models/prices/trainings")
    assert second.status_code == 202
    listed = controlled.client.get("/trainings", params={"model": "prices"}).json()
    assert [training["id"] for training in listed] == [second.json()["id"], first]
    assert controlled.client.get("/trainings", params={"limit": 1}).json() == listed[:1]
    assert controlled.client.get("/trainings", params={"model": "other"}).json() == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"parameters": {"max_epochs": NaN}}',
        b'{"parameters": {"max_epochs": 1e999}}',
        b'{"parameters": {"max_epochs": 99999999999999999999999}}',
        b'{"parameters": {"max_epochs": "5"}}',
        b'{"parameters": {"max_epochs": true}}',
        b'{"parameters": {"a; DROP TABLE trainings": 1}}',
        b'{"parameters": {"\\u0000": 1}}',
        b'{"parameters": {"\\ud800": 1}}',
        b'{"parameters": {"max_epochs": {"nested": 1}}}',
        b'{"parameters": []}',
        b'{"parametres": {}}',
        b"[]",
        b"7",
    ],
)
def test_training_request_that_is_not_allowed_is_refused(steady: Controlled, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = steady.client.post("/models/prices/trainings", content=body, headers=headers)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"]
    assert steady.client.get("/trainings").json() == []


def test_body_that_is_no_json_is_refused(steady: Controlled) -> None:
    headers = {"Content-Type": "application/json"}
    response = steady.client.post("/models/prices/trainings", content=b"{", headers=headers)
    assert response.status_code == 400
    assert response.json()["type"] == "/problems/malformed-body"


def test_unknown_training_is_not_found(steady: Controlled) -> None:
    response = steady.client.get(f"/trainings/{uuid.uuid4()}")
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/training-not-found"
