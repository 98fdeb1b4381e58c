"""Every route of serving, asked by nobody and by every role."""

from pathlib import Path

import httpx

from core.contract import RESERVED_ADDRESSES
from core.principals import Role
from serving.app import create_app
from tests.role_walk import add_role_tokens, ask, find_described, find_first_parts, find_wrong
from tests.serving.running import Served, build_settings, find_free_port
from web.declared_roles import load_declared
from web.public_routes import is_public


def test_every_route_answers_each_role_as_declared(two_models: Served, tmp_path: Path) -> None:
    headers = add_role_tokens(two_models.database_url)
    app = create_app(build_settings(tmp_path, find_free_port()), two_models.database_url)
    assert find_wrong(app, two_models.address, headers) == []


def test_everything_described_is_refused_to_nobody_unless_public(two_models: Served, tmp_path: Path) -> None:
    """The description has the paths that contracts document too, which are no routes of the framework."""
    app = create_app(build_settings(tmp_path, find_free_port()), two_models.database_url)
    described = list(find_described(two_models.client.get("/openapi.json").json()))
    documented = [(method, path) for method, path in described if (method, path) not in load_declared(app)]
    assert sorted(documented) == [("POST", "/areas/predict"), ("POST", "/predict")]
    headers = add_role_tokens(two_models.database_url)
    with httpx.Client(base_url=two_models.address) as nobody:
        for method, path in described:
            assert (ask(nobody, method, path).status_code == 401) != is_public(path), path
        for method, path in documented:
            assert ask(nobody, method, path, headers[Role.VIEWER]).status_code not in (401, 403)


def test_no_model_can_document_a_route_at_an_address_of_serving(two_models: Served, tmp_path: Path) -> None:
    app = create_app(build_settings(tmp_path, find_free_port()), two_models.database_url)
    assert find_first_parts(app) <= RESERVED_ADDRESSES


def test_what_control_answers_is_refused_before_it_is_forwarded(two_models: Served) -> None:
    """Control does not run here: 503 is what forwarding comes to."""
    with httpx.Client(base_url=two_models.address) as nobody:
        for path in ("/models/prices/history", "/users", "/mlflow/", "/nowhere"):
            assert nobody.get(path).status_code == 401, path
            assert two_models.client.get(path).status_code == 503, path
        assert nobody.post("/token", data={"username": "anna", "password": "x"}).status_code == 503
        page = nobody.get("/mlflow/", params={"a": "b"}, headers={"Accept": "text/html,*/*"})
        assert (page.status_code, page.headers["Location"]) == (303, "/sign-in?next=/mlflow/%3Fa%3Db")


def test_refusals_of_the_protocols_have_their_own_shapes(two_models: Served) -> None:
    with httpx.Client(base_url=two_models.address) as nobody:
        triton = nobody.post("/v2/models/prices/infer", json={})
        assert (triton.status_code, list(triton.json())) == (401, ["error"])
        assert triton.headers["WWW-Authenticate"] == "Bearer"
        scoring = nobody.post("/invocations", json={})
        assert (scoring.status_code, sorted(scoring.json())) == (401, ["error_code", "message"])
