"""The rights of the door against every route of the MLflow that is installed, and against tricks with its paths."""

import http.client
import json
import re
import socket
import time
import warnings
from collections.abc import Iterator
from typing import NoReturn
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from control.tracking_matching import find_right
from control.tracking_operations import FIELDS
from control.tracking_rights import build_rights
from core.principals import Role
from core.tables.audit import audit_log
from core.tracking_errors import TrackingRouteUnnamed
from tests.control.roles import as_role
from tests.control.running import TIMEOUT_S, Controlled, controlling
from tests.control.upstream import Upstream, running_upstream

Route = tuple[str, str, str]
"""Method, path with a value for every parameter, and the name of MLflow's function."""

_READING_VERBS = (
    "batch_get",
    "calculate",
    "deprecated_get",
    "deprecated_search",
    "download",
    "get",
    "graphql",
    "health",
    "list",
    "not_implemented",
    "query",
    "search",
    "serve",
    "serve_artifacts",
    "serve_get",
    "serve_model_version_artifact",
    "serve_post_ui_telemetry",
    "serve_search",
    "serve_static_file",
    "static",
    "version",
)
_NEVER_BELOW_ADMINISTRATOR = re.compile(
    r"delete|transition|rename|restore|(set|create)\w*_alias|_(create|update|test)_webhook|secret|workspace_handler"
    r"|budget|guardrail|install_skills|demo"
)


def load_routes() -> list[Route]:
    """Every route of the installed MLflow: those of its FastAPI application and those of the Flask one behind it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.routing import iter_route_contexts
        from mlflow.server import app as flask_app
        from mlflow.server.fastapi_app import app as fastapi_app
    found: list[Route] = []
    for context in iter_route_contexts(fastapi_app.routes):
        for method in sorted(getattr(context, "methods", None) or ()):
            path = re.sub(r"\{[^}]+\}", "x", str(context.path))
            found.append((method, path, str(getattr(context, "name", ""))))
    for rule in flask_app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            found.append((method, re.sub(r"<[^>]+>", "x", rule.rule), rule.endpoint))
    return found


ROUTES = load_routes()


def get_needed(method: str, path: str) -> Role | None:
    return find_right(method, path).right.role


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def door(database_url: str, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    folder = tmp_path_factory.mktemp("door")
    with controlling(folder, database_url, upstream.address) as running:
        yield running


# --- the table -----------------------------------------------------------------------------------------------------


def test_installed_mlflow_shows_its_routes() -> None:
    paths = {path for _, path, _ in ROUTES}
    assert len(ROUTES) > 400
    assert {
        "/api/2.0/mlflow/runs/create",
        "/ajax-api/2.0/mlflow/upload-artifact",
        "/ajax-api/3.0/mlflow/mcp-servers/x/aliases/x",
        "/api/2.0/mlflow-artifacts/artifacts/x",
        "/gateway/mlflow/v1/models",
        "/v1/traces",
        "/graphql",
        "/",
    } <= paths


def test_every_route_of_mlflow_has_a_right() -> None:
    missing = []
    for method, path, name in ROUTES:
        try:
            find_right(method, path)
        except TrackingRouteUnnamed:
            missing.append((method, path, name))
    assert missing == []


def test_every_right_is_for_a_route_of_mlflow() -> None:
    present = {(method, path.replace("/ajax-api/", "/api/")) for method, path, _ in ROUTES}
    assert {(right.method, re.sub(r"{[^}]+}", "x", right.template)) for right in build_rights()} == present


def test_viewers_get_nothing_that_changes_anything() -> None:
    for method, path, name in ROUTES:
        if get_needed(method, path) is Role.VIEWER:
            assert method in ("GET", "POST")
            verb = name.lstrip("_").removesuffix("_handler")
            assert verb.startswith(_READING_VERBS), f"{method} {path} is {name}"


def test_only_administrators_delete_and_move() -> None:
    for method, path, name in ROUTES:
        if method != "GET" and _NEVER_BELOW_ADMINISTRATOR.search(name):
            assert get_needed(method, path) is Role.ADMINISTRATOR, f"{method} {path} is {name}"
        assert method != "DELETE" or get_needed(method, path) is Role.ADMINISTRATOR, path


# --- the walk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [*Role, None], ids=lambda role: role.word if role else "nobody")
def test_each_role_gets_what_is_declared_and_nothing_else(
    door: Controlled, upstream: Upstream, role: Role | None
) -> None:
    headers = as_role(role) if role is not None else {"Authorization": "Bearer nobody's"}
    for method, path, _ in ROUTES:
        right = find_right(method, path).right
        content = b'{"query": "{ test }"}' if path == "/graphql" else b"{}"
        upstream.reached.clear()
        # The real server has a test of its own for its description.
        if path.endswith("/server-info"):
            continue
        answer = door.client.request(
            method, f"/mlflow{path}", content=content, headers={**headers, "Content-Type": "application/json"}
        )
        came = [(one.method, one.path) for one in upstream.reached]
        if role is not None and right.role is not None and role >= right.role:
            assert (answer.status_code, came) == (200, [(method, path)])
            continue
        assert came == [], f"{method} {path}"
        expected = (501, "NOT_IMPLEMENTED") if right.is_past_the_door else (403, "PERMISSION_DENIED")
        assert (answer.status_code, answer.json()["error_code"]) == (
            (401, "UNAUTHENTICATED") if role is None else expected
        )
        assert len(answer.json()["message"]) > 10


def test_credentials_of_the_platform_do_not_reach_mlflow(door: Controlled, upstream: Upstream) -> None:
    upstream.reached.clear()
    headers = {**as_role(Role.VIEWER), "Cookie": "session=secret", "X-Api": "kept"}
    assert door.client.get("/mlflow/version", headers=headers).status_code == 200
    (came,) = upstream.reached
    assert came.headers["x-api"] == "kept"
    assert not {"authorization", "cookie"} & came.headers.keys()


# --- tricks --------------------------------------------------------------------------------------------------------

_TRANSITION = "api/2.0/mlflow/model-versions/transition-stage"
TRICKS = [
    ("POST", f"/mlflow//{_TRANSITION}"),
    ("POST", f"/mlflow/./{_TRANSITION}"),
    ("POST", "/mlflow/api/2.0/mlflow/runs/search/../../model-versions/transition-stage"),
    ("POST", "/mlflow/api/2.0/mlflow/runs/search/%2e%2e/%2E%2E/model-versions/transition-stage"),
    ("POST", "/mlflow/api/2.0/mlflow/runs/search%2f..%2f..%2fmodel-versions/transition-stage"),
    ("POST", "/mlflow/api/2.0/mlflow//model-versions/transition-stage"),
    ("POST", "/mlflow/api/2.0/mlflow%2f%2fmodel-versions/transition-stage"),
    ("POST", "/mlflow/api/2.0/mlflow\\model-versions\\transition-stage"),
    ("POST", "/mlflow/api/2.0/mlflow/model-versions%5ctransition-stage"),
    ("POST", f"/mlflow/{_TRANSITION}/"),
    ("POST", f"/mlflow/{_TRANSITION}%00"),
    ("POST", f"/mlflow/{_TRANSITION}%0a"),
    ("POST", f"/mlflow/{_TRANSITION};a=b"),
    ("POST", f"/mlflow/{_TRANSITION}%3fx"),
    ("POST", f"/mlflow/{_TRANSITION.upper()}"),
    ("POST", "/mlflow/API/2.0/mlflow/runs/search"),
    ("POST", f"/mlflow/mlflow/{_TRANSITION}"),
    ("POST", f"/%6dlflow/{_TRANSITION}"),
    ("POST", f"/mlflow%2f{_TRANSITION}"),
    ("POST", "/mlflow/api/2.0/mlflow/runs/search/"),
    ("POST", "/mlflow/%ff/runs/search"),
    ("PUT", f"/mlflow/{_TRANSITION}"),
    ("TRACE", "/mlflow/api/2.0/mlflow/runs/search"),
    ("OPTIONS", "/mlflow/api/2.0/mlflow/runs/search"),
    ("delete", "/mlflow/api/2.0/mlflow/runs/get"),
    ("GET", f"/mlflow/{_TRANSITION}"),
]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ADMINISTRATOR], ids=lambda role: role.word)
@pytest.mark.parametrize(("method", "target"), TRICKS)
def test_path_that_can_be_read_otherwise_reaches_nothing(
    door: Controlled, upstream: Upstream, method: str, target: str, role: Role
) -> None:
    upstream.reached.clear()
    # A client that sends the path as it stands: httpx would resolve its dots.
    connection = http.client.HTTPConnection(httpx.URL(door.address).netloc.decode(), timeout=TIMEOUT_S)
    connection.request(method, target, body=b"{}", headers={**as_role(role), "Content-Type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    assert status in (400, 403, 404, 405)
    assert upstream.reached == []


@pytest.mark.parametrize("path", ["/mlflow/%0A", "/mlflow/x%0Ay", "/mlflow/x%0A"])
def test_line_break_leads_nobody_past_the_sign_in(door: Controlled, path: str) -> None:
    assert httpx.get(f"{door.address}{path}", timeout=TIMEOUT_S).status_code == 401
    assert door.client.get(path).status_code in (403, 404)


def test_encoded_slash_is_judged_as_mlflow_reads_it(door: Controlled, upstream: Upstream) -> None:
    url = httpx.URL(door.address).copy_with(raw_path=b"/mlflow/api/2.0/mlflow/model-versions%2Ftransition-stage")
    upstream.reached.clear()
    assert door.client.post(url, headers=as_role(Role.OPERATOR), json={}).status_code == 403
    assert upstream.reached == []
    assert door.client.post(url, headers=as_role(Role.ADMINISTRATOR), json={}).status_code == 200
    assert [one.path for one in upstream.reached] == [f"/{_TRANSITION}"]


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL"])
def test_header_that_names_another_method_or_address_changes_no_right(
    door: Controlled, upstream: Upstream, header: str
) -> None:
    value = f"/{_TRANSITION}" if header == "X-Original-URL" else "DELETE"
    headers = {**as_role(Role.VIEWER), header: value}
    path = "/mlflow/api/2.0/mlflow/registered-models/alias"
    upstream.reached.clear()
    assert door.client.post(path, headers=headers, json={}).status_code == 403
    assert upstream.reached == []
    assert door.client.get(path, headers=headers, params={"_method": "DELETE"}).status_code == 200
    assert [(one.method, one.path) for one in upstream.reached] == [("GET", path.removeprefix("/mlflow"))]


# --- bodies that decide --------------------------------------------------------------------------------------------


def test_every_query_of_mlflows_graphql_is_named_and_no_mutation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.server.graphql.graphql_schema_extensions import schema
    parsed = schema.graphql_schema
    assert set(parsed.query_type.fields) == FIELDS
    assert parsed.subscription_type is None


MUTATION = 'mutation { testMutation(inputString: "x") { output } }'


@pytest.mark.parametrize(
    "document",
    [
        {"query": MUTATION},
        {"query": 'query a { test(inputString: "x") { output } } ' + MUTATION, "operationName": "a"},
        {"query": "subscription { test }"},
        {"query": "{ testMutation }"},
        {"query": "{ ...f } fragment f on Query { deleteEverything }"},
        {"query": "{ ... on Query { ... { deleteEverything } } }"},
        {"query": "{ ...f } fragment f on Query { ...g } fragment g on Query { ...f deleteEverything }"},
        {"query": "{ test: deleteEverything }"},
        {"query": "type Query { test: Int }"},
        {"query": "{" * 3000},
        {"query": "{ test" + " test" * 6000 + " }"},
        {"query": ["{ test }"]},
        {"query": None},
        {},
        [{"query": "{ test }"}],
        "query",
    ],
)
def test_graphql_that_does_more_than_read_reaches_nothing(
    door: Controlled, upstream: Upstream, document: object
) -> None:
    upstream.reached.clear()
    answer = door.client.post("/mlflow/graphql", headers=as_role(Role.ADMINISTRATOR), json=document)
    assert answer.status_code in (400, 403, 422), answer.text
    assert answer.json()["error_code"] in ("PERMISSION_DENIED", "INVALID_PARAMETER_VALUE")
    assert upstream.reached == []


def test_mlflow_reads_in_a_judged_body_what_was_judged(door: Controlled, upstream: Upstream) -> None:
    harmless = '{ test(inputString: "x") { output } }'
    body = json.dumps({"query": MUTATION})[:-1] + ", " + json.dumps({"query": harmless})[1:]
    headers = {**as_role(Role.VIEWER), "Content-Type": "application/json"}
    upstream.reached.clear()
    assert door.client.post("/mlflow/graphql", headers=headers, content=body).status_code == 200
    assert [json.loads(one.body) for one in upstream.reached] == [{"query": harmless}]
    wide = json.dumps({"query": harmless}).encode("utf-16")
    assert door.client.post("/mlflow/graphql", headers=headers, content=wide).status_code == 200
    assert json.loads(upstream.reached[-1].body.decode("utf-8")) == {"query": harmless}


@pytest.mark.parametrize("member", ["artifact_location", "artifactLocation", "ArtifactLocation"])
@pytest.mark.parametrize(
    "location",
    [
        "file:///etc",
        "/etc",
        "s3://other/bucket",
        ["mlflow-artifacts:/x"],
        "mlflow-artifacts:/../x",
        "mlflow-artifacts:/%2e%2e/x",
    ],
)
def test_experiment_cannot_keep_its_artifacts_on_the_servers_machine(
    door: Controlled, upstream: Upstream, member: str, location: object
) -> None:
    path = "/mlflow/api/2.0/mlflow/experiments/create"
    upstream.reached.clear()
    for document in ({"name": "x", member: location}, json.dumps({"name": "x", member: location})):
        assert door.client.post(path, headers=as_role(Role.OPERATOR), json=document).status_code == 403
    assert upstream.reached == []
    inside = {"name": "x", member: "mlflow-artifacts:/x"}
    assert door.client.post(path, headers=as_role(Role.OPERATOR), json=inside).status_code == 200


@pytest.mark.parametrize(
    "document",
    [
        {"artifact_location": "/etc", "artifactlocation": ""},
        {"artifact_location": "/etc", "ARTIFACT_LOCATION": "mlflow-artifacts:/x"},
        {"artifactLocation": "s3://other", "artifact__location": "mlflow-artifacts:/x"},
    ],
)
def test_another_spelling_hides_no_location(door: Controlled, upstream: Upstream, document: dict[str, str]) -> None:
    upstream.reached.clear()
    path = "/mlflow/api/2.0/mlflow/experiments/create"
    assert door.client.post(path, headers=as_role(Role.OPERATOR), json={"name": "x"} | document).status_code == 403
    assert upstream.reached == []


@pytest.mark.parametrize("tag", ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "api/2.0/mlflow/traces"),
        ("PATCH", "api/2.0/mlflow/traces/t1"),
        ("PATCH", "api/2.0/mlflow/traces/t1/tags"),
        ("POST", "ajax-api/3.0/mlflow/traces"),
        ("PATCH", "api/3.0/mlflow/traces/t1/tags"),
    ],
)
def test_trace_has_no_files_on_the_servers_machine(
    door: Controlled, upstream: Upstream, method: str, path: str, tag: str
) -> None:
    headers = as_role(Role.OPERATOR)
    upstream.reached.clear()
    for location in ("/etc", "file:///etc", "s3://other/x", "mlflow-artifacts:/../x"):
        for document in (
            {"key": tag, "value": location},
            {"tags": [{"key": "a", "value": "b"}, {"key": tag, "value": location}]},
            {"trace": {"trace_info": {"tags": {"a": "b", tag: location}}}},
        ):
            answer = door.client.request(method, f"/mlflow/{path}", headers=headers, json=document)
            assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert upstream.reached == []
    inside = {"tags": [{"key": tag, "value": "mlflow-artifacts:/1/traces/t1/artifacts"}, {"key": "a", "value": "/etc"}]}
    assert door.client.request(method, f"/mlflow/{path}", headers=headers, json=inside).status_code == 200


@pytest.mark.parametrize(
    "source",
    [
        "s3://other/x",
        "s3://b/x?endpoint_url=http://h",
        "gs://b/x",
        "dbfs:/x",
        "/etc",
        "file:///etc",
        " s3://b",
        ["runs:/"],
    ],
)
def test_version_has_no_files_that_only_the_servers_keys_open(
    door: Controlled, upstream: Upstream, source: object
) -> None:
    upstream.reached.clear()
    path = "/mlflow/api/2.0/mlflow/model-versions/create"
    for document in ({"name": "x", "source": source}, {"name": "x", "source": source, "Source": "runs:/1/x"}):
        answer = door.client.post(path, headers=as_role(Role.ADMINISTRATOR), json=document)
        assert answer.status_code == 403, answer.text
    assert upstream.reached == []
    for inside in ("runs:/1/x", "models:/m-1", "mlflow-artifacts:/1/x", "prompt-template"):
        document = {"name": "x", "source": inside}
        assert door.client.post(path, headers=as_role(Role.OPERATOR), json=document).status_code == 200


# --- while the database is away ------------------------------------------------------------------------------------


def test_nothing_changes_in_mlflow_that_could_not_be_entered(
    door: Controlled, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> NoReturn:
        raise OperationalError("SELECT 1", {}, ConnectionError("away"))

    headers = as_role(Role.OPERATOR)
    # Who asks is known by now.
    assert door.client.get("/mlflow/version", headers=headers).status_code == 200
    upstream.reached.clear()
    monkeypatch.setattr(door.connections.engine, "connect", refuse)
    answer = door.client.post("/mlflow/api/2.0/mlflow/runs/create", headers=headers, json={}, timeout=TIMEOUT_S)
    assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert upstream.reached == []
    assert door.client.get("/mlflow/version", headers=headers).status_code == 200


_MOVE = {"name": "prices", "version": "3", "stage": "Staging"}


@pytest.mark.parametrize(
    ("method", "path", "content", "model", "target"),
    [
        ("POST", _TRANSITION, json.dumps(_MOVE), "prices", "version 3 to Staging"),
        (
            "POST",
            _TRANSITION,
            json.dumps(_MOVE | {"NAME": "other", "Stage": "None", "stage_": "None"}),
            "prices",
            "version 3 to Staging",
        ),
        ("POST", _TRANSITION, json.dumps(_MOVE).encode("utf-16"), "prices", "version 3 to Staging"),
        ("POST", _TRANSITION, " " * 70_000 + json.dumps(_MOVE), "prices", "version 3 to Staging"),
        ("POST", _TRANSITION, json.dumps(json.dumps(_MOVE)), "prices", "version 3 to Staging"),
        ("POST", _TRANSITION, iter([json.dumps(_MOVE).encode()]), "prices", "version 3 to Staging"),
        ("POST", f"{_TRANSITION}?name=other&stage=None", json.dumps(_MOVE), "prices", "version 3 to Staging"),
        (
            "DELETE",
            "api/2.0/mlflow/registered-models/alias?name=other&version=7",
            '{"name": "prices", "alias": "champion"}',
            "prices",
            "alias champion",
        ),
        ("PATCH", "api/2.0/mlflow/registered-models/update", '{"name": "prices"}', "prices", None),
        ("POST", "api/2.0/mlflow/registered-models/rename", '{"name": "a", "newName": "b"}', "a", "to b"),
        ("POST", "api/2.0/mlflow/runs/delete", '{"runId": "r1"}', None, "run r1"),
    ],
)
def test_entry_names_what_mlflow_reads_however_it_is_sent(
    door: Controlled,
    upstream: Upstream,
    method: str,
    path: str,
    content: str | bytes | Iterator[bytes],
    model: str | None,
    target: str | None,
) -> None:
    headers = {**as_role(Role.ADMINISTRATOR), "X-Request-ID": uuid4().hex}
    # MLflow asks for JSON's type in POST alone.
    headers["Content-Type"] = "application/json" if method == "POST" else "text/plain"
    assert door.client.request(method, f"/mlflow/{path}", headers=headers, content=content).status_code == 200
    with door.connections.engine.connect() as connection:
        query = select(audit_log.c.model, audit_log.c.target).where(audit_log.c.request_id == headers["X-Request-ID"])
        assert connection.execute(query).one() == (model, target)


def test_change_of_a_client_that_left_is_entered(door: Controlled, upstream: Upstream) -> None:
    request_id = uuid4().hex
    body = json.dumps(_MOVE).encode()
    address = httpx.URL(door.address)
    head = [
        f"POST /mlflow/{_TRANSITION} HTTP/1.1",
        f"Host: {address.netloc.decode()}",
        f"Authorization: {as_role(Role.ADMINISTRATOR)['Authorization']}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
    ]
    upstream.reached.clear()
    upstream.wait_s = 1.0
    with socket.create_connection((address.host, address.port or 80)) as client:
        client.sendall("\r\n".join([*head, "", ""]).encode() + body)
        while not upstream.reached:
            time.sleep(0.02)
    deadline = time.monotonic() + TIMEOUT_S
    query = select(audit_log.c.target, audit_log.c.status).where(audit_log.c.request_id == request_id)
    found = None
    while found is None and time.monotonic() < deadline:
        time.sleep(0.1)
        with door.connections.engine.connect() as connection:
            found = connection.execute(query).one_or_none()
    upstream.wait_s = 0.0
    assert found == ("version 3 to Staging", 200)


def test_walk_left_an_entry_for_each_change(door: Controlled) -> None:
    headers = {**as_role(Role.ADMINISTRATOR), "X-Request-ID": "moved-by-ada"}
    document = {"name": "prices", "version": "3", "stage": "production", "secret": "hidden-word"}
    assert door.client.post(f"/mlflow/{_TRANSITION}", headers=headers, json=document).status_code == 200
    with door.connections.engine.connect() as connection:
        row = connection.execute(select(audit_log).where(audit_log.c.request_id == "moved-by-ada")).one()
        hidden = connection.scalar(text("SELECT count(*) FROM audit_log WHERE audit_log::text LIKE '%hidden-word%'"))
    assert (row.actor, row.role, row.model, row.target) == (
        "token:ada",
        "administrator",
        "prices",
        "version 3 to Production",
    )
    assert (row.action, row.outcome, row.status) == (f"POST /mlflow/{_TRANSITION}", "done", 200)
    assert hidden == 0
