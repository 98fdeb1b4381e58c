"""Versions, their stages and serving targets over HTTP, on a real registry."""

import uuid

import pytest

from core.contracts import write_contracts
from core.registry import Registry
from core.targets import load_targets
from core.verdicts import Verdict, VerdictOutcome, store_verdict
from tests.accounts import ACTOR
from tests.control.running import Controlled
from workloads.catalogue import get_workload


@pytest.fixture
def model(tracked: Controlled) -> str:
    """A declared model of the test's own, with two versions: the registry is shared."""
    name = f"prices_{uuid.uuid4().hex[:12]}"
    tracking, registry = tracked.connections.tracking, tracked.connections.registry
    with tracked.connections.engine.begin() as connection:
        write_contracts(connection, [get_workload("prices").build_contract().model_copy(update={"model": name})])
    for _ in range(2):
        run_id = tracking.start_run(name, None, {})
        tracking.log_document(run_id, {"model": name}, "model/contract.json")
        registry.register(name, run_id, f"runs:/{run_id}/model", {"digest": "d1"})
    return name


def test_versions_show_stage_and_outcome(tracked: Controlled, model: str) -> None:
    outcomes: tuple[VerdictOutcome, ...] = ("keep", "promote")
    for outcome in outcomes:
        # Two transactions: their times differ.
        with tracked.connections.engine.begin() as connection:
            store_verdict(connection, Verdict(model, 1, None, outcome, "looked at", ()), None)
    tracked.client.post(f"/models/{model}/promote", json={"version": 1})
    newest, older = tracked.client.get(f"/models/{model}/versions").json()
    assert (newest["version"], newest["stage"], newest["outcome"]) == (2, "None", None)
    assert (older["version"], older["stage"], older["outcome"]) == (1, "Production", "promote")
    assert older["tags"] == {"digest": "d1"}
    assert len(older["run_id"]) == 32
    assert tracked.client.get(f"/models/{model}/versions", params={"limit": 1}).json() == [newest]


def test_model_without_versions_lists_none(tracked: Controlled) -> None:
    name = f"prices_{uuid.uuid4().hex[:12]}"
    with tracked.connections.engine.begin() as connection:
        write_contracts(connection, [get_workload("prices").build_contract().model_copy(update={"model": name})])
    assert tracked.client.get(f"/models/{name}/versions").json() == []


def test_promotion_and_rollback_move_production_and_are_recorded(tracked: Controlled, model: str) -> None:
    registry = tracked.connections.registry
    with tracked.connections.engine.begin() as connection:
        store_verdict(connection, Verdict(model, 1, None, "promote", "looked at", ()), None)
    assert tracked.client.post(f"/models/{model}/promote", json={"version": 1}).status_code == 200
    refused = tracked.client.post(f"/models/{model}/promote", json={"version": 2, "reason": "by hand"})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/verdict-stands")
    silent = tracked.client.post(f"/models/{model}/promote", json={"version": 2, "override": True})
    assert (silent.status_code, silent.json()["type"]) == (422, "/problems/parameter-rejected")
    order = {"version": 2, "override": True, "reason": "  by hand "}
    moved = tracked.client.post(f"/models/{model}/promote", json=order)
    assert moved.status_code == 200
    document = moved.json()
    assert (document["version"], document["previous_version"], document["to_stage"]) == (2, 1, "Production")
    assert (document["cause"], document["reason"], document["actor"]) == ("override", "by hand", ACTOR)
    assert _get_production(registry, model) == 2
    again = tracked.client.post(f"/models/{model}/promote", json={"version": 2})
    assert (again.status_code, again.json()) == (200, document)
    back = tracked.client.post(f"/models/{model}/rollback", json={"reason": "wrong"})
    assert (back.status_code, back.json()["version"], back.json()["cause"]) == (200, 1, "rollback")
    assert _get_production(registry, model) == 1
    history = tracked.client.get(f"/models/{model}/history").json()
    assert [(entry["version"], entry["cause"], entry["state"]) for entry in history] == [
        (1, "rollback", "finished"),
        (2, "override", "finished"),
        (1, "hand", "finished"),
    ]
    nothing = tracked.client.post(f"/models/{model}/rollback")
    assert (nothing.status_code, nothing.json()["type"]) == (409, "/problems/nothing-to-roll-back-to")


def test_version_that_does_not_exist_is_not_promoted(tracked: Controlled, model: str) -> None:
    for number in (3, 2**31 - 1):
        response = tracked.client.post(f"/models/{model}/promote", json={"version": number})
        assert response.status_code == 404, response.text
        assert response.json()["type"] == "/problems/model-version-not-found"
    assert tracked.client.get(f"/models/{model}/history").json() == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"version": 0},
        {"version": -1},
        {"version": 2**31},
        {"version": 1.5},
        {"version": "1"},
        {"version": True},
        {"version": None},
        {"version": 1, "stage": "Archived"},
        {"version": 1, "override": "yes"},
        {"version": 1, "reason": "a\x00b"},
        {"version": 1, "reason": "a" * 2001},
        {"version": 1, "reason": ["x"]},
    ],
)
def test_promotion_that_is_not_allowed_is_refused(steady: Controlled, body: dict[str, object]) -> None:
    response = steady.client.post("/models/prices/promote", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"]


def test_target_is_production_until_it_is_set(tracked: Controlled, model: str) -> None:
    assert tracked.client.get(f"/models/{model}/target").json() == {"model": model, "target": "Production"}
    for target in ("latest", "2", "Production"):
        response = tracked.client.put(f"/models/{model}/target", json={"target": target})
        assert response.status_code == 200, response.text
        assert tracked.client.get(f"/models/{model}/target").json() == {"model": model, "target": target}


def test_missing_version_cannot_be_pinned(tracked: Controlled, model: str) -> None:
    tracked.client.put(f"/models/{model}/target", json={"target": "1"})
    for target in ("3", str(2**31), "9" * 30, "1.0.0", "Staging"):
        response = tracked.client.put(f"/models/{model}/target", json={"target": target})
        assert response.status_code == 404, response.text
        assert response.json()["type"] == "/problems/model-version-not-found"
        assert "existing are 2, 1" in response.json()["detail"]
    with tracked.connections.engine.connect() as connection:
        assert load_targets(connection)[model] == "1"


@pytest.mark.parametrize("target", ["production", "Latest", "", "0", "01", "-1", "a/b", " 1", "\u0661", "1\n", "1;"])
def test_target_that_is_none_is_refused(steady: Controlled, target: str) -> None:
    response = steady.client.put("/models/prices/target", json={"target": target})
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "/problems/parameter-rejected"
    assert steady.client.get("/models/prices/target").json()["target"] == "Production"


def _get_production(registry: Registry, model: str) -> int | None:
    production = registry.find_production(model)
    return None if production is None else production.version
