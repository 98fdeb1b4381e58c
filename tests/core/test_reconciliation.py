import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine, insert

from core.database import TRANSITIONS_CHANNEL, listening, lock_model
from core.promotion import promote, rollback
from core.reconciliation import reconcile
from core.registry import Registry, Standing
from core.tables.data import workloads
from core.transitions import Transition, load_history

AddVersion = Callable[[], int]


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """The session's database: these tests keep apart by models of their own."""
    return shared_engine


class Person:
    """Someone who works in MLflow's pages or with its own client, past the platform."""

    def __init__(self, tracking_uri: str, model: str) -> None:
        self._client = MlflowClient(tracking_uri, tracking_uri)
        self._model = model

    def move(self, version: int, stage: str, *, is_archiving: bool = True) -> None:
        with pytest.warns(FutureWarning, match="stages"):
            self._client.transition_model_version_stage(
                self._model, str(version), stage, archive_existing_versions=is_archiving
            )

    def move_alias(self, version: int) -> None:
        self._client.set_registered_model_alias(self._model, "production", str(version))

    def delete(self, version: int) -> None:
        self._client.delete_model_version(self._model, str(version))


@pytest.fixture
def person(tracking_server: str, model: str) -> Person:
    return Person(tracking_server, model)


@pytest.fixture
def in_production(engine: Engine, registry: Registry, model: str, add_version: AddVersion) -> int:
    """Three versions, the second in Production by the platform."""
    for _ in range(3):
        add_version()
    return promote(engine, registry, model, 2, actor="ann", cause="hand").version


def declare(engine: Engine, model: str) -> None:
    with engine.begin() as connection:
        connection.execute(insert(workloads).values(model=model, contract={}))


def settle(engine: Engine, registry: Registry, model: str) -> list[Transition]:
    return [entry for entry in reconcile(engine, registry) if entry.model == model]


@contextmanager
def held_lock(engine: Engine, model: str) -> Iterator[None]:
    with engine.begin() as connection:
        lock_model(connection, model)
        yield


def test_reconciler_honours_and_records_a_stage_moved_in_mlflow(
    engine: Engine, database_url: str, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.move(3, "Production")
    with listening(database_url, TRANSITIONS_CHANNEL) as connection:
        found = settle(engine, registry, model)
        heard = [notice.payload for notice in connection.notifies(timeout=2.0, stop_after=1)]
    assert heard == [model]
    assert len(found) == 1
    external = found[0]
    assert (external.version, external.previous_version, external.to_stage) == (3, in_production, "Production")
    assert (external.origin, external.cause, external.actor) == ("external", "external", "mlflow")
    assert registry.load_standing(model) == Standing(3, 3)
    assert settle(engine, registry, model) == []
    assert rollback(engine, registry, model, actor="ann").version == in_production


def test_reconciler_records_the_first_version_that_a_person_put_into_production(
    engine: Engine, registry: Registry, model: str, person: Person, add_version: AddVersion
) -> None:
    declare(engine, model)
    add_version()
    person.move(1, "Production")
    found = settle(engine, registry, model)
    assert [(entry.version, entry.previous_version, entry.origin) for entry in found] == [(1, None, "external")]
    assert registry.load_standing(model) == Standing(1, 1)


@pytest.mark.parametrize("stage", ["Archived", "Staging", "None"])
def test_reconciler_records_a_version_taken_out_of_production(
    stage: str, engine: Engine, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.move(in_production, stage, is_archiving=False)
    found = settle(engine, registry, model)
    assert [(entry.version, entry.from_stage, entry.to_stage) for entry in found] == [(2, "Production", stage)]
    assert registry.load_standing(model) == Standing(None, None, staging=2 if stage == "Staging" else None)
    assert settle(engine, registry, model) == []


def test_reconciler_records_a_version_deleted_from_production(
    engine: Engine, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.delete(in_production)
    found = settle(engine, registry, model)
    assert [(entry.version, entry.from_stage, entry.to_stage) for entry in found] == [(2, "Production", "Deleted")]
    assert settle(engine, registry, model) == []


def test_reconciler_sets_a_moved_alias_back_to_the_stage_and_records_no_transition(
    engine: Engine, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.move_alias(3)
    assert registry.load_standing(model) == Standing(in_production, 3)
    assert settle(engine, registry, model) == []
    assert registry.load_standing(model) == Standing(in_production, in_production)


def test_reconciler_takes_the_highest_of_several_versions_in_production(
    engine: Engine, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.move(1, "Production", is_archiving=False)
    assert settle(engine, registry, model) == []
    person.move(3, "Production", is_archiving=False)
    assert [entry.version for entry in settle(engine, registry, model)] == [3]
    assert {entry.stage for entry in registry.load_versions(model)} == {"Production"}
    promote(engine, registry, model, 1, actor="ann", cause="hand")
    stages = {entry.version: entry.stage for entry in registry.load_versions(model)}
    assert stages == {1: "Production", 2: "Archived", 3: "Archived"}


def test_reconciler_leaves_a_model_that_is_being_promoted(
    engine: Engine, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.move(3, "Production")
    with held_lock(engine, model):
        started = time.monotonic()
        assert settle(engine, registry, model) == []
        assert time.monotonic() - started < 5
    assert [entry.version for entry in settle(engine, registry, model)] == [3]


def test_reconciler_leaves_models_of_others_alone(
    engine: Engine, registry: Registry, model: str, person: Person, add_version: AddVersion
) -> None:
    add_version()
    person.move(1, "Production")
    assert settle(engine, registry, model) == []
    assert registry.load_standing(model) == Standing(production=1, alias=None)


def test_promotion_records_an_external_move_that_the_reconciler_has_not_seen(
    engine: Engine, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.move(3, "Production")
    done = promote(engine, registry, model, 1, actor="ann", cause="hand")
    assert done.previous_version == 3
    with engine.connect() as connection:
        history = load_history(connection, model)
    assert [(entry.version, entry.origin) for entry in history] == [(1, "platform"), (3, "external"), (2, "platform")]


def test_promotion_of_what_a_person_moved_there_returns_the_external_transition(
    engine: Engine, registry: Registry, model: str, person: Person, in_production: int
) -> None:
    person.move(3, "Production")
    assert promote(engine, registry, model, 3, actor="ann", cause="hand").origin == "external"


def test_reconciler_copes_with_a_declared_model_that_was_never_registered(engine: Engine, registry: Registry) -> None:
    model = f"model_{uuid.uuid4().hex[:12]}"
    declare(engine, model)
    assert settle(engine, registry, model) == []
