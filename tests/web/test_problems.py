"""Errors as problem documents, whatever raised them."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request

from core.account_errors import (
    AccountsUnknown,
    NotSignedIn,
    RoleTooSmall,
    SignInFailed,
    SignInThrottled,
    TokenRestricted,
)
from core.data_errors import RowsRejected
from core.errors import (
    Fault,
    MillraceError,
    ModelDirectoryRejected,
    ModelNotFound,
    NoProductionVersion,
    NothingToRollBackTo,
    RequestRejected,
)
from core.principals import Principal, Role
from tests.web.running import running
from web.principal import get_actor, note_principal
from web.problems import PROBLEM_TYPE, install_problem_details

FAULT = Fault("values[3]", "nan", "a finite number is expected")
ERRORS: dict[str, tuple[MillraceError, int]] = {
    "request-rejected": (RequestRejected("prices", [FAULT]), 422),
    "rows-rejected": (RowsRejected("prices", "a.csv", [FAULT], 7), 422),
    "model-not-found": (ModelNotFound("x", ["prices"]), 404),
    "nothing-to-roll-back-to": (NothingToRollBackTo("prices"), 409),
    "not-signed-in": (NotSignedIn(), 401),
    "role-too-small": (RoleTooSmall("anna", "viewer", "operator"), 403),
    "token-restricted": (TokenRestricted("token:ci", ["predict"], "to read"), 403),
    "sign-in-failed": (SignInFailed("anna"), 400),
    "sign-in-throttled": (SignInThrottled("anna", 77), 429),
    "accounts-unknown": (AccountsUnknown(), 503),
    "no-production-version": (NoProductionVersion("prices"), 503),
    "internal-error": (ModelDirectoryRejected("/secret/path", "it is gone"), 500),
}


class Order(BaseModel):
    count: int
    name: str


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    app = FastAPI()
    install_problem_details(app)

    @app.get("/errors/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name][0]

    @app.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError("postgresql://user:password@host")

    @app.post("/orders")
    async def order(given: Order, request: Request) -> str:
        note_principal(request.scope, Principal("anna", Role.VIEWER))
        return f"{get_actor(request)} {given.count}"

    with running(app) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.mark.parametrize("name", ERRORS)
def test_error_category_decides_the_status(client: httpx.Client, name: str) -> None:
    error, status = ERRORS[name]
    response = client.get(f"/errors/{name}", headers={"X-Request-ID": "r-1"})
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["Content-Type"] == PROBLEM_TYPE
    assert problem["type"] == f"/problems/{name}"
    assert problem["request_id"] == response.headers["X-Request-ID"] == "r-1"
    assert problem["instance"].endswith("r-1")
    assert ("Retry-After" in response.headers) == (status in (429, 503))
    assert (response.headers.get("WWW-Authenticate") == "Bearer") == (status == 401)
    if status == 429:
        assert response.headers["Retry-After"] == "77"
    if status != 500:
        assert problem["detail"] == error.sentence
        assert error.facts().items() <= problem.items()


@pytest.mark.parametrize("path", ["/errors/internal-error", "/crash"])
def test_internal_error_shows_nothing_of_the_inside(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 500
    for secret in ("/secret/path", "password", "Traceback", "ZeroDivision"):
        assert secret not in response.text
    assert response.headers["X-Request-ID"] in response.json()["detail"]


def test_unknown_route_and_wrong_method_are_problems(client: httpx.Client) -> None:
    assert client.get("/nowhere").json()["type"] == "/problems/not-found"
    wrong = client.delete("/orders")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert "DELETE" in wrong.json()["detail"]


def test_invalid_fields_are_named_with_value_and_rule(client: httpx.Client) -> None:
    response = client.post("/orders", json={"count": "many"})
    assert response.status_code == 422
    errors = {error["where"]: error for error in response.json()["errors"]}
    assert errors["count"]["value"] == "'many'"
    assert errors["name"]["value"] == "nothing"
    assert client.post("/orders", json={"count": 2, "name": "a"}).json() == "anna 2"


def test_body_that_is_not_json_is_a_malformed_body(client: httpx.Client) -> None:
    response = client.post("/orders", content="{", headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["type"] == "/problems/malformed-body"
