"""Paths that a workload documents and control answers."""

import pytest
from fastapi import Request
from starlette.exceptions import HTTPException

from control import documented
from core.contract import Route
from core.contracts import write_contracts
from core.principals import Role
from tests.accounts import ACTOR
from tests.control.running import Controlled
from workloads.catalogue import get_workload

_TRAIN = "/api/v1/recommendations/train"


@pytest.fixture
def books(controlled: Controlled) -> Controlled:
    """The control plane with model `books` declared; it has no version."""
    with controlled.connections.engine.begin() as connection:
        write_contracts(connection, [get_workload("books").build_contract()])
    return controlled


def test_training_is_asked_for_where_the_workload_documents_it(books: Controlled) -> None:
    first, second = books.client.post(_TRAIN), books.client.post(_TRAIN)
    assert (first.status_code, second.status_code) == (202, 200)
    assert (first.json()["model"], first.json()["cause"], first.json()["actor"]) == ("books", "hand", ACTOR)
    assert second.json() == first.json()
    assert books.client.get(first.headers["location"]).json() == first.json()


def test_documented_training_is_for_administrators(books: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Role] = []

    def require(role: Role) -> object:
        def check(_request: Request) -> None:
            asked.append(role)
            raise HTTPException(403)

        return check

    monkeypatch.setattr(documented, "require", require)
    assert books.client.post(_TRAIN).status_code == 403
    assert asked == [Role.ADMINISTRATOR]
    assert books.client.get("/trainings").json() == []


def test_interactions_are_taken_before_there_is_a_version(books: Controlled) -> None:
    rating = {"user_id": 1, "book_id": 2, "rating": 5}
    assert books.client.post("/api/v1/interactions", json=rating).status_code == 201


def test_documented_path_has_its_method_and_the_guard_of_every_route(books: Controlled) -> None:
    assert books.client.get(_TRAIN).status_code == 405
    assert books.client.get("/api/v1/nothing").status_code == 404
    assert books.client.post("/trainings").status_code == 405
    assert books.client.post(_TRAIN, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert books.client.get("/trainings").json() == []


def test_role_is_for_trainings_alone() -> None:
    with pytest.raises(ValueError, match="only codec training takes"):
        Route(path="/rows", codec="observations", role="operator")
