"""History, what served at a time, and approvals over HTTP, on a real registry."""

import time
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from core.approvals import ask_for_approval
from core.contracts import write_contracts
from core.trainings import request_training
from core.verdicts import Check, Verdict, store_verdict
from tests.accounts import ACTOR
from tests.control.running import Controlled
from workloads.catalogue import get_workload

CHECK = Check("baseline", True, 0.9, 1.0, "smaller than persistence")


@pytest.fixture
def model(tracked: Controlled) -> str:
    """A declared model of the test's own, with two versions: the registry is shared."""
    name = f"prices_{uuid.uuid4().hex[:12]}"
    tracking, registry = tracked.connections.tracking, tracked.connections.registry
    with tracked.connections.engine.begin() as connection:
        write_contracts(connection, [get_workload("prices").build_contract().model_copy(update={"model": name})])
    run_id = tracking.start_run(name, None, {})
    tracking.log_document(run_id, {"model": name}, "model/contract.json")
    for _ in range(2):
        registry.register(name, run_id, f"runs:/{run_id}/model", {})
    return name


def let_pass(tracked: Controlled, model: str, version: int, champion: int | None, approver: str | None) -> Verdict:
    verdict = Verdict(model, version, champion, "promote", "smaller error", (CHECK,), approver)
    engine = tracked.connections.engine
    with engine.begin() as connection:
        training, _ = request_training(connection, model, cause="hand", actor="ann", is_enqueued=False)
        verdict_id = store_verdict(connection, verdict, training.id)
    if approver is not None:
        ask_for_approval(engine, tracked.connections.registry, verdict, verdict_id, actor="ann")
    return verdict


def look(tracked: Controlled, model: str, at: str) -> httpx.Response:
    return tracked.client.get(f"/models/{model}/served", params={"at": at})


def test_history_shows_each_move_with_its_evidence_and_what_served_when(tracked: Controlled, model: str) -> None:
    before = datetime.now(UTC)
    let_pass(tracked, model, 1, None, None)
    assert tracked.client.post(f"/models/{model}/promote", json={"version": 1}).status_code == 200
    [entry] = tracked.client.get(f"/models/{model}/history").json()
    assert entry["evidence"]["verdict"]["checks"] == [
        {
            "name": "baseline",
            "has_passed": True,
            "value": 0.9,
            "threshold": 1.0,
            "reason": "smaller than persistence",
        }
    ]
    assert entry["evidence"]["training_cause"] == "hand"
    training = tracked.client.get(entry["links"]["training"])
    assert training.json()["id"] == entry["evidence"]["training_id"]
    assert entry["links"]["version"] == f"/mlflow/#/models/{model}/versions/1"
    assert tracked.client.get(f"/models/{model}/history", params={"before": entry["id"]}).json() == []

    time.sleep(0.01)
    promoted = datetime.now(UTC)
    tracked.client.put(f"/models/{model}/target", json={"target": "2"})
    tracked.client.put(f"/models/{model}/target", json={"target": "Production"})
    [newest, pinned] = tracked.client.get(f"/models/{model}/target/history").json()
    assert (newest["target"], pinned["target"], pinned["set_by"]) == ("Production", "2", ACTOR)

    assert look(tracked, model, before.isoformat()).json()["version"] is None
    served = look(tracked, model, promoted.isoformat()).json()
    assert (served["version"], served["production"], served["target"]) == (1, 1, "Production")
    assert (served["transition"]["id"], served["target_set_by"]) == (entry["id"], None)
    served = look(tracked, model, pinned["set_at"]).json()
    assert (served["version"], served["production"], served["target_set_by"]) == (2, 1, ACTOR)
    assert look(tracked, model, newest["set_at"]).json()["version"] == 1


@pytest.mark.parametrize("at", ["", "yesterday", "2026-13-01", "2026-01-01T00:00:00Z'; DROP TABLE transitions; --"])
def test_time_that_is_none_is_refused(steady: Controlled, at: str) -> None:
    assert look(steady, "prices", at).status_code == 422


def test_time_that_lies_ahead_is_refused(steady: Controlled) -> None:
    ahead = look(steady, "prices", (datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert (ahead.status_code, ahead.json()["type"]) == (422, "/problems/parameter-rejected")
    far = look(steady, "prices", "0001-01-01T00:00:00")
    assert (far.status_code, far.json()["version"]) == (200, None)


def test_version_that_waits_is_listed_and_approved_or_rejected(tracked: Controlled, model: str) -> None:
    let_pass(tracked, model, 1, None, "administrator")
    [waiting] = tracked.client.get("/approvals").json()
    assert (waiting["model"], waiting["version"], waiting["approver"]) == (model, 1, "administrator")
    assert (waiting["asked_by"], waiting["verdict"]["reason"]) == ("ann", "smaller error")
    address = f"/models/{model}/versions/1"
    for body in ({}, {"reason": ""}, {"reason": "  "}, {"reason": "a\x00b"}, {"why": "x"}):
        assert tracked.client.post(f"{address}/reject", json=body).status_code == 422
    done = tracked.client.post(f"{address}/approve", json={"reason": "looked at"})
    assert (done.status_code, done.json()["cause"], done.json()["actor"]) == (200, "approval", ACTOR)
    assert tracked.client.get("/approvals").json() == []
    again = tracked.client.post(f"{address}/approve")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/not-waiting")

    let_pass(tracked, model, 2, 1, "operator")
    rejected = tracked.client.post(f"/models/{model}/versions/2/reject", json={"reason": "biased"})
    assert (rejected.status_code, rejected.json()["to_stage"]) == (200, "Archived")
    missing = tracked.client.post(f"/models/{model}/versions/9/approve")
    assert (missing.status_code, missing.json()["type"]) == (409, "/problems/not-waiting")


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "2147483648", "1 OR 1=1", "..%2f..", "latest", "%00"])
def test_version_that_is_no_number_is_refused(steady: Controlled, version: str) -> None:
    for act in ("approve", "reject"):
        response = steady.client.post(f"/models/prices/versions/{version}/{act}", json={"reason": "x"})
        assert response.status_code in (404, 422), response.text
        assert "Traceback" not in response.text
