"""Names that would become part of a path, a table or an address, on every route."""

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from core.contracts import load_models
from tests.control.running import Controlled

_NAMES = [
    "../../etc/passwd",
    "..",
    "%2e%2e%2f%2e%2e",
    "prices'; DROP TABLE workloads; --",
    "prices\x00",
    "prices\n",
    "PRICES",
    "price\u0455",
    "\u202eprices",
    "\U0001f600",
    "a" * 64,
    "a" * 5000,
    "models:/prices/Production",
    "-prices",
    " prices",
    "{model}",
    "${jndi:ldap://x}",
]
_BODIES = {
    "promote": {"version": 1},
    "target": {"target": "latest"},
    "reject": {"reason": "no"},
}


def _iterate_routes(steady: Controlled) -> Iterator[tuple[str, str]]:
    """Method and path of every documented route that has a parameter."""
    document = steady.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            if "{" in path:
                yield method.upper(), path


def _ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    if path.endswith("/observations"):
        return client.request(method, path, files={"file": ("x.csv", b"a\n1\n")})
    return client.request(method, path, json=_BODIES.get(path.rpartition("/")[2]) if method != "GET" else None)


@pytest.mark.parametrize("name", _NAMES)
def test_hostile_name_is_refused_on_every_route(steady: Controlled, name: str) -> None:
    routes = list(_iterate_routes(steady))
    assert len(routes) >= 15
    for method, path in routes:
        hostile = path.replace("{model}", quote(name, safe="")).replace("{finding_id}", quote(name, safe=""))
        hostile = hostile.replace("{training_id}", quote(name, safe="")).replace("{version}", quote(name, safe=""))
        response = _ask(steady.client, method, hostile)
        assert 400 <= response.status_code < 500, (method, path, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert not _shows_the_inside(response.text), response.text
    with steady.connections.engine.connect() as connection:
        assert load_models(connection) == ["prices"]


def test_undeclared_model_is_not_found_on_every_route(steady: Controlled) -> None:
    for method, path in _iterate_routes(steady):
        if "{model}" not in path:
            continue
        asked = path.replace("{model}", "nothing").replace("{finding_id}", "00000000-0000-0000-0000-000000000000")
        asked = asked.replace("{version}", "1")
        if path.endswith("/served"):
            asked += "?at=2026-01-01T00:00"
        response = _ask(steady.client, method, asked)
        assert response.status_code == 404, (method, path, response.text)
        assert response.json()["type"] == "/problems/model-not-found"
        assert "prices" in response.json()["detail"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=501", "limit=x", "limit=1e3", "limit=%00", "model=%27%20OR%201=1", "model=A"],
)
def test_hostile_query_is_refused(steady: Controlled, query: str) -> None:
    response = steady.client.get(f"/trainings?{query}")
    assert response.status_code == 422
    assert not _shows_the_inside(response.text)


def test_unknown_path_is_a_problem_document(steady: Controlled) -> None:
    for path in ("/nothing", "/models/prices/versions/", "/models//versions", "/%ff", "/trainings/%00"):
        response = steady.client.get(path)
        assert response.status_code in (404, 422), path
        assert response.headers["content-type"] == "application/problem+json"


def _shows_the_inside(text: str) -> bool:
    return any(sign in text for sign in ("Traceback", "site-packages", ".py", "psycopg", "sqlalchemy", "SELECT "))
