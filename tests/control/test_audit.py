"""The audit log of the control plane: what is entered, how it is read, and that nobody changes it."""

import csv
import io
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from core.audit import EVERYTHING, AuditEntry, StoredEntry, load_entries, store_entries
from core.contracts import write_contracts
from core.principals import Role
from tests.accounts import ACTOR
from tests.control.roles import as_role
from tests.control.running import TIMEOUT_S, Controlled, controlling, declare_prices
from workloads.catalogue import get_workload


def load_log(controlled: Controlled) -> list[StoredEntry]:
    with controlled.connections.engine.connect() as connection:
        return load_entries(connection, EVERYTHING, 1_000)


def wait_for_log(controlled: Controlled, count: int) -> list[StoredEntry]:
    """The log when its entries stand for so many requests: refusals come a little later."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        found = load_log(controlled)
        if sum(entry.times for entry in found) >= count:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"the log has {found}, not {count}")
        time.sleep(0.05)


def test_changing_request_is_entered_before_it_is_answered(controlled: Controlled) -> None:
    answer = controlled.client.put("/models/prices/target", json={"target": "latest"})
    assert answer.status_code == 200
    (entry,) = load_log(controlled)
    assert (entry.action, entry.model, entry.outcome) == ("PUT /models/{model}/target", "prices", "done")
    assert entry.target == "target latest"
    assert (entry.actor, entry.role, entry.client) == (ACTOR, "administrator", "127.0.0.1")
    assert (entry.status, entry.request_id, entry.times) == (200, answer.headers["x-request-id"], 1)
    assert abs(entry.happened_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_promotion_is_entered_with_its_version(controlled: Controlled) -> None:
    # The registry is away, which is nothing to the name of what was asked for.
    assert controlled.client.post("/models/prices/promote", json={"version": 7}).status_code == 503
    (entry,) = load_log(controlled)
    assert (entry.action, entry.target, entry.outcome) == ("POST /models/{model}/promote", "version 7", "failed")


def test_change_that_failed_is_entered_with_its_reason_and_without_its_body(controlled: Controlled) -> None:
    assert controlled.client.put("/models/prices/target", json={"target": ["body-word"]}).status_code == 422
    assert controlled.client.put("/models/nothing/target?x=query-word", json={"target": "latest"}).status_code == 404
    second, first = load_log(controlled)
    assert (first.outcome, first.status, first.model) == ("failed", 422, "prices")
    assert (second.outcome, second.status, second.reason, second.model) == ("failed", 404, "model-not-found", "nothing")
    assert "word" not in f"{first}{second}"


def test_reading_and_what_has_no_route_is_not_entered(controlled: Controlled) -> None:
    for path in ("/trainings", "/models/prices/history", "/audit", "/health/live", "/nowhere"):
        controlled.client.get(path)
    assert controlled.client.post("/nowhere", json={}).status_code == 404
    assert load_log(controlled) == []


def test_caller_behind_our_own_forwarder_is_named(controlled: Controlled) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    controlled.client.put("/models/prices/target", json={"target": "latest"}, headers=headers)
    assert load_log(controlled)[0].client == "203.0.113.9"


def test_caller_behind_a_forwarder_that_no_setting_names_is_not_believed(
    tmp_path: Path, platform_url: str, nowhere: str
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    with controlling(tmp_path, platform_url, nowhere, trusted_proxies="192.0.2.1") as controlled:
        declare_prices(controlled.connections)
        controlled.client.put("/models/prices/target", json={"target": "latest"}, headers=headers)
        assert load_log(controlled)[0].client == "127.0.0.1"


def test_alike_refusals_are_one_entry_with_a_count(controlled: Controlled) -> None:
    for _ in range(20):
        # Of another site's page.
        headers = {"Origin": "https://other.example"}
        assert controlled.client.put("/models/prices/target", json={}, headers=headers).status_code == 403
    found = wait_for_log(controlled, 20)
    assert sum(entry.times for entry in found) == 20
    assert len(found) < 20
    assert {(entry.action, entry.outcome, entry.status) for entry in found} == {
        ("PUT /models/{model}/target", "refused", 403)
    }


def test_refusals_at_the_door_are_entered_with_who_and_what(controlled: Controlled) -> None:
    path = "/mlflow/api/2.0/mlflow/model-versions/transition-stage"
    move = {"name": "prices", "version": "3", "stage": "Production"}
    assert controlled.client.post(path, json=move, headers={"Authorization": "Bearer x"}).status_code == 401
    assert controlled.client.post(path, json=move, headers=as_role(Role.VIEWER)).status_code == 403
    found = {entry.status: entry for entry in wait_for_log(controlled, 2)}
    assert (found[401].actor, found[401].action) == (None, "POST /mlflow/(not named)")
    assert (found[403].actor, found[403].role, found[403].model) == ("token:vera", "viewer", "prices")
    assert (found[403].target, found[403].reason) == ("version 3 to Production", "tracking-role-too-low")
    assert found[403].action == f"POST {path}"


def test_what_nobody_signed_in_gets_wrong_fills_no_log(controlled: Controlled) -> None:
    with httpx.Client(base_url=controlled.address, timeout=TIMEOUT_S) as nobody:
        for number in range(40):
            assert nobody.post("/token", data={"grant_type": f"x{number}"}).status_code == 400
            assert nobody.post("/token", data={"username": "x" * 2_000}).status_code == 422
    found = wait_for_log(controlled, 80)
    assert {(entry.action, entry.outcome, entry.status, entry.actor) for entry in found} == {
        ("POST /token", "failed", 400, None),
        ("POST /token", "failed", 422, None),
    }
    assert len(found) < 40


def test_signing_in_is_entered_with_the_users_name_and_nothing_else_that_was_typed(controlled: Controlled) -> None:
    password = "correct horse battery"
    order = {"name": "anna", "password": password, "role": "operator"}
    assert controlled.client.post("/users", json=order).status_code == 201
    with httpx.Client(base_url=controlled.address, timeout=TIMEOUT_S) as nobody:
        asked = [{"username": "anna", "password": password}, {"username": "anna", "password": "wrong word"}]
        issued, _ = [nobody.post("/token", data=form) for form in asked]
        again = {"grant_type": "refresh_token", "refresh_token": issued.json()["refresh_token"]}
        assert [nobody.post("/token", data=again).status_code for _ in range(2)] == [200, 400]
        assert nobody.post("/token", data={"username": password, "password": "anna"}).status_code == 400
        assert nobody.post("/sign-in", data={"name": "anna", "password": password}).status_code == 303
        assert nobody.post("/sign-in", data={"name": "anna", "password": "wrong word"}).status_code == 400
    found = wait_for_log(controlled, 8)
    told = {(entry.action, entry.outcome, entry.actor, entry.reason) for entry in found}
    assert told == {
        ("POST /users", "done", ACTOR, None),
        ("POST /token", "done", "anna", None),
        ("POST /token", "refused", "anna", "sign-in-failed"),
        ("POST /token", "refused", "anna", "refresh-refused"),
        ("POST /token", "refused", None, "sign-in-failed"),
        ("POST /sign-in", "done", "anna", None),
        ("POST /sign-in", "refused", "anna", "sign-in-failed"),
    }
    assert password not in f"{found}" and "wrong word" not in f"{found}"


def test_change_of_an_account_names_it_and_what_it_may(controlled: Controlled) -> None:
    client = controlled.client
    order = {"name": "anna", "password": "correct horse battery", "role": "operator"}
    assert client.post("/users", json=order).status_code == 201
    change = {"role": "viewer", "password": "another horse battery", "is_disabled": True}
    assert client.patch("/users/anna", json=change).status_code == 200
    assert client.post("/tokens", json={"name": "meter", "role": "viewer"}).status_code == 201
    assert client.delete("/tokens/meter").status_code == 204
    found = load_log(controlled)
    assert [entry.target for entry in reversed(found)] == [
        "user anna as operator",
        "user anna: role viewer, another password, disabled",
        "token meter as viewer",
        "name meter",
    ]
    assert "horse" not in f"{found}"


def test_change_at_a_documented_path_is_entered(controlled: Controlled) -> None:
    with controlled.connections.engine.begin() as connection:
        write_contracts(connection, [get_workload("books").build_contract()])
    assert controlled.client.post("/api/v1/recommendations/train").status_code == 202
    (entry,) = load_log(controlled)
    assert (entry.actor, entry.model, entry.outcome) == (ACTOR, "books", "done")


# --- reading it ----------------------------------------------------------------------------------------------------

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ENTRIES = [
    AuditEntry(NOON, "control", "POST /models/{model}/promote", "done", 200, actor="ada", model="prices"),
    AuditEntry(NOON + timedelta(hours=1), "cli", "millrace rollback", "failed", actor="=1+1", model="failures"),
    AuditEntry(NOON + timedelta(hours=2), "serving", "GET /metrics", "refused", 401, client="192.0.2.1", times=7),
]


@pytest.fixture
def filled(controlled: Controlled) -> Controlled:
    with controlled.connections.engine.begin() as connection:
        store_entries(connection, ENTRIES)
    return controlled


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({}, [2, 1, 0]),
        ({"actor": "ada"}, [0]),
        ({"action": "ROLL"}, [1]),
        ({"model": "failures"}, [1]),
        ({"from_at": "2026-05-04T13:00:00Z"}, [2, 1]),
        ({"to_at": "2026-05-04T13:00:00+00:00"}, [0]),
        ({"actor": "ada", "model": "failures"}, []),
        ({"actor": "ada' OR 1=1 --"}, []),
    ],
)
def test_log_is_filtered(filled: Controlled, query: dict[str, str], numbers: list[int]) -> None:
    page = filled.client.get("/audit", params=query).json()
    assert [one["action"] for one in page["entries"]] == [ENTRIES[number].action for number in numbers]
    assert page["next_before"] is None
    lines = filled.client.get("/audit/export", params=query).text.splitlines()
    assert [json.loads(line)["action"] for line in lines] == [ENTRIES[number].action for number in reversed(numbers)]


def test_log_is_read_page_by_page(filled: Controlled) -> None:
    seen, before = [], None
    for _ in range(3):
        query = {"limit": 1} | ({"before": before} if before else {})
        page = filled.client.get("/audit", params=query).json()
        seen += [one["action"] for one in page["entries"]]
        before = page["next_before"]
    assert seen == [entry.action for entry in reversed(ENTRIES)]
    assert before is None


@pytest.mark.parametrize("query", [{"limit": 0}, {"before": -1}, {"from_at": "2026-05-04T13:00:00"}, {"actor": "\x00"}])
def test_query_that_is_no_query_is_refused(filled: Controlled, query: dict[str, str]) -> None:
    assert filled.client.get("/audit", params=query).status_code == 422


def test_log_is_exported_as_csv_without_formulas(filled: Controlled) -> None:
    answer = filled.client.get("/audit/export", params={"form": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["actor"] for row in rows] == ["ada", "'=1+1", ""]
    assert [row["times"] for row in rows] == ["1", "1", "7"]
    assert rows[0]["happened_at"] == NOON.isoformat()
