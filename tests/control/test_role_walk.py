"""Every route of control, asked by nobody and by every role."""

import httpx
import pytest
from fastapi import Depends, FastAPI

from control.app import create_app
from core.contract import RESERVED_ADDRESSES
from core.principals import Action, Role
from tests.control.running import Controlled
from tests.role_walk import add_role_tokens, ask, find_described, find_first_parts, find_wrong
from web.declared_roles import RouteUndeclared, load_declared
from web.principal import require
from web.public_routes import is_public


def test_every_route_answers_each_role_as_declared(controlled: Controlled) -> None:
    headers = add_role_tokens(controlled.connections.database_url)
    # `test_tracking_rights` walks what is behind MLflow's door, route by route.
    assert find_wrong(create_app(controlled.connections), controlled.address, headers, {"/mlflow/{path}"}) == []


def test_walk_covers_what_the_description_shows_and_what_matters(steady: Controlled) -> None:
    declared = load_declared(create_app(steady.connections))
    described = set(find_described(steady.client.get("/openapi.json").json()))
    assert described <= declared.keys()
    asked = {key: requirement.role if requirement else None for key, requirement in declared.items()}
    assert asked["POST", "/models/{model}/promote"] is Role.ADMINISTRATOR
    assert asked["POST", "/models/{model}/rollback"] is Role.ADMINISTRATOR
    assert asked["POST", "/models/{model}/observations"] is Role.OPERATOR
    assert asked["POST", "/models/{model}/trainings"] is Role.OPERATOR
    assert asked["GET", "/models/{model}/history"] is Role.VIEWER
    assert asked["POST", "/users"] is Role.ADMINISTRATOR
    public = {path for (_, path), role in asked.items() if role is None and is_public(path)}
    assert public == {
        "/health/live",
        "/health/ready",
        "/token",
        "/sign-in",
        "/first-administrator",
        "/docs/assets/{path}",
    }


def test_no_model_can_document_a_route_at_an_address_of_control(steady: Controlled) -> None:
    assert find_first_parts(create_app(steady.connections)) <= RESERVED_ADDRESSES


def test_what_is_nowhere_is_told_to_nobody_unknown(steady: Controlled) -> None:
    with httpx.Client(base_url=steady.address) as nobody:
        for path in ("/nowhere", "/users/../models", "//users", "/health/live/", "/docs/assets", "/mlflow%2f..%2fx"):
            assert nobody.get(path).status_code == 401, path
        assert ask(nobody, "POST", "/models/{model}/promote").headers["WWW-Authenticate"] == "Bearer"


def test_route_that_declares_nothing_keeps_the_application_from_starting() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/declared", dependencies=[Depends(require(Role.OPERATOR))])
    def show() -> None: ...

    assert {key: one.action for key, one in load_declared(app).items() if one} == {("GET", "/declared"): Action.OPERATE}

    @app.get("/forgotten")
    def show_too() -> None: ...

    with pytest.raises(RouteUndeclared, match="/forgotten has to declare"):
        load_declared(app)
