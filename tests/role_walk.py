"""Asks every route of an application with no token and with every role, and compares with what it declares."""

import re
from collections.abc import Container, Iterator, Mapping

import httpx
from fastapi import FastAPI

from core.principals import Role
from tests.accounts import add_test_token, build_headers
from web.declared_roles import load_declared

_VALUES = {"model": "prices", "version": "1", "finding_id": "0" * 32, "training_id": "0" * 32, "name": "nobody"}
REFUSALS = (401, 403)


def add_role_tokens(database_url: str) -> Mapping[Role | None, Mapping[str, str]]:
    """The headers of a request without a token, and of one by a token of each role."""
    headers: dict[Role | None, Mapping[str, str]] = {None: {}}
    for role in Role:
        token = f"mlr_a-{role.word}-of-the-walk"
        add_test_token(database_url, token, f"walk-{role.word}", role)
        headers[role] = build_headers(token)
    return headers


def find_wrong(
    app: FastAPI, address: str, headers: Mapping[Role | None, Mapping[str, str]], walked_elsewhere: Container[str] = ()
) -> list[str]:
    """Every answer that is not as declared, in words; paths that have a walk of their own are left out."""
    with httpx.Client(base_url=address, timeout=60) as client:
        return [
            f"{method} {path} as {'nobody' if role is None else role.word}: {status}, but {wanted} is declared"
            for (method, path), requirement in load_declared(app).items()
            if path not in walked_elsewhere
            for role, sent in headers.items()
            for wanted in [_build_wanted(role, None if requirement is None else requirement.role)]
            for status in [_ask(client, method, path, sent)]
            if (status if status in REFUSALS else "neither 401 nor 403") != wanted
        ]


def find_described(document: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Iterator[tuple[str, str]]:
    """Method and path of everything that an OpenAPI description shows."""
    for path, operations in document["paths"].items():
        for method in operations:
            yield method.upper(), path


def find_first_parts(app: FastAPI) -> set[str]:
    """What the addresses of its routes begin with."""
    return {path.split("/")[1] for _, path in load_declared(app)}


def ask(client: httpx.Client, method: str, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """A request to a route's path, with values for what stands in it."""
    address = re.sub(r"\{(\w+)(?::path)?\}", lambda found: _VALUES.get(found[1], "x"), path)
    return client.request(method, address, json=None if method == "GET" else {}, headers=headers)


def _ask(client: httpx.Client, method: str, path: str, headers: Mapping[str, str]) -> int:
    return ask(client, method, path, headers).status_code


def _build_wanted(role: Role | None, required: Role | None) -> int | str:
    if required is None or (role is not None and role >= required):
        return "neither 401 nor 403"
    return 401 if role is None else 403
