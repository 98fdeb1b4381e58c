"""Challengers that wait in Staging for a role, on a real registry."""

import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine

from core.approval_errors import ApprovalOutdated, NotWaiting
from core.approvals import approve, ask_for_approval, load_approvals, reject
from core.errors import ParameterRejected, VerdictStands
from core.principals import Role
from core.promotion import promote, promote_by_hand
from core.reconciliation import reconcile
from core.registry import Registry, Standing
from core.transitions import Transition, load_history
from core.verdicts import Verdict, load_passed_versions, store_verdict
from tests.conftest import find_free_port

AddVersion = Callable[[], int]
VERDICT = Verdict("", 0, None, "promote", "smaller error", (), "administrator")


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """The session's database: these tests keep apart by models of their own."""
    return shared_engine


@pytest.fixture
def champion(engine: Engine, registry: Registry, model: str, add_version: AddVersion) -> int:
    """Three versions, the first in Production."""
    for _ in range(3):
        add_version()
    return promote(engine, registry, model, 1, actor="ann", cause="hand").version


def ask(engine: Engine, registry: Registry, model: str, version: int, champion: int | None) -> Transition:
    verdict = replace(VERDICT, model=model, version=version, champion_version=champion)
    with engine.begin() as connection:
        verdict_id = store_verdict(connection, verdict, None)
    return ask_for_approval(engine, registry, verdict, verdict_id, actor="trainer")


def load_stages(registry: Registry, model: str) -> dict[int, str]:
    return {version.version: version.stage for version in registry.load_versions(model)}


def load_waiting_versions(engine: Engine, model: str) -> list[int]:
    with engine.connect() as connection:
        return [approval.transition.version for approval in load_approvals(connection, model)]


def test_challenger_waits_in_staging_and_the_champion_serves_until_it_is_approved(
    engine: Engine, registry: Registry, model: str, champion: int
) -> None:
    asked = ask(engine, registry, model, 2, champion)
    assert (asked.from_stage, asked.to_stage, asked.cause, asked.actor) == ("None", "Staging", "gate", "trainer")
    assert load_stages(registry, model) == {1: "Production", 2: "Staging", 3: "None"}
    with engine.connect() as connection:
        [waiting] = load_approvals(connection, model)
        assert (waiting.transition, waiting.approver) == (asked, Role.ADMINISTRATOR)
        # Target `latest` does not go round the approval.
        assert load_passed_versions(connection, model) == []

    done = approve(engine, registry, model, 2, actor="bea", reason="looked at")

    assert (done.from_stage, done.to_stage, done.previous_version) == ("Staging", "Production", 1)
    assert (done.cause, done.actor, done.reason, done.verdict_id) == ("approval", "bea", "looked at", asked.verdict_id)
    assert registry.load_standing(model) == Standing(2, 2)
    assert load_stages(registry, model) == {1: "Archived", 2: "Production", 3: "None"}
    with engine.connect() as connection:
        assert load_approvals(connection, model) == []
        assert load_passed_versions(connection, model) == [2]
        assert [one.cause for one in load_history(connection, model)] == ["approval", "gate", "hand"]
    assert [one for one in reconcile(engine, registry) if one.model == model] == []
    with pytest.raises(NotWaiting, match="of this model none does"):
        approve(engine, registry, model, 2, actor="bea")


def test_rejected_challenger_is_archived_with_the_reason(
    engine: Engine, registry: Registry, model: str, champion: int
) -> None:
    ask(engine, registry, model, 2, champion)
    with pytest.raises(ParameterRejected, match="reason"):
        reject(engine, registry, model, 2, actor="bea", reason=" ")
    done = reject(engine, registry, model, 2, actor="bea", reason="biased")
    assert (done.to_stage, done.cause, done.actor, done.reason) == ("Archived", "rejection", "bea", "biased")
    assert load_stages(registry, model) == {1: "Production", 2: "Archived", 3: "None"}
    assert load_waiting_versions(engine, model) == []
    with engine.connect() as connection:
        assert load_passed_versions(connection, model) == []
    with pytest.raises(NotWaiting):
        approve(engine, registry, model, 2, actor="bea")


def test_newer_challenger_takes_the_place_of_the_one_that_waits(
    engine: Engine, registry: Registry, model: str, champion: int
) -> None:
    ask(engine, registry, model, 2, champion)
    ask(engine, registry, model, 3, champion)
    assert load_stages(registry, model) == {1: "Production", 2: "Archived", 3: "Staging"}
    assert load_waiting_versions(engine, model) == [3]
    with engine.connect() as connection:
        history = load_history(connection, model, 2)
    assert [(one.version, one.to_stage, one.cause) for one in history] == [
        (3, "Staging", "gate"),
        (2, "Archived", "superseded"),
    ]
    with pytest.raises(NotWaiting, match="of this model version 3 does"):
        approve(engine, registry, model, 2, actor="bea")


def test_approval_against_another_champion_is_refused_and_the_version_waits_on(
    engine: Engine, registry: Registry, model: str, champion: int
) -> None:
    ask(engine, registry, model, 2, champion)
    promote(engine, registry, model, 3, actor="ann", cause="hand")
    with pytest.raises(ApprovalOutdated, match=r"compared it with version 1, but now version 3 .* --override"):
        approve(engine, registry, model, 2, actor="bea")
    assert load_waiting_versions(engine, model) == [2]
    assert registry.load_standing(model).production == 3
    with pytest.raises(VerdictStands, match="needs the approval of role 'administrator'"):
        promote_by_hand(engine, registry, model, 2, actor="ann")
    done = promote_by_hand(engine, registry, model, 2, actor="ann", is_override=True, reason="it must")
    assert (done.cause, done.to_stage) == ("override", "Production")
    assert load_waiting_versions(engine, model) == []


def test_first_version_waits_too(engine: Engine, registry: Registry, model: str, add_version: AddVersion) -> None:
    add_version()
    ask(engine, registry, model, 1, None)
    assert registry.load_standing(model) == Standing(None, None, staging=1)
    assert [one for one in reconcile(engine, registry) if one.model == model] == []
    assert approve(engine, registry, model, 1, actor="bea").previous_version is None
    assert registry.load_standing(model) == Standing(1, 1)


@pytest.mark.parametrize("stage", ["Archived", "Production", "None"])
def test_waiting_version_that_a_person_moves_in_mlflow_waits_no_longer(
    stage: str, engine: Engine, tracking_server: str, registry: Registry, model: str, champion: int
) -> None:
    ask(engine, registry, model, 2, champion)
    with pytest.warns(FutureWarning, match="stages"):
        MlflowClient(tracking_server, tracking_server).transition_model_version_stage(model, "2", stage)
    found = [one for one in reconcile(engine, registry) if one.model == model]
    assert [(one.version, one.to_stage, one.origin) for one in found] == [(2, stage, "external")]
    assert load_waiting_versions(engine, model) == []
    assert [one for one in reconcile(engine, registry) if one.model == model] == []
    production = 2 if stage == "Production" else 1
    assert (registry.load_standing(model).production, registry.load_standing(model).alias) == (production, production)


class Killed(Exception):
    pass


class StoppedRegistry(Registry):
    """A registry whose caller ends at the move to one stage: before it, or after MLflow has done it."""

    def __init__(self, tracking_uri: str, stage: str, when: str) -> None:
        super().__init__(tracking_uri)
        self._stage, self._when = stage, when

    def move_to_stage(self, model: str, version: int, stage: str) -> None:
        if (stage, self._when) == (self._stage, "before"):
            raise Killed
        super().move_to_stage(model, version, stage)
        if (stage, self._when) == (self._stage, "after"):
            raise Killed


@pytest.mark.parametrize(
    ("stage", "when", "waiting"),
    [("Archived", "before", [2]), ("Archived", "after", []), ("Staging", "before", []), ("Staging", "after", [3])],
)
def test_question_that_stops_between_two_steps_is_settled_and_can_be_asked_again(
    stage: str,
    when: str,
    waiting: list[int],
    engine: Engine,
    tracking_server: str,
    registry: Registry,
    model: str,
    champion: int,
) -> None:
    ask(engine, registry, model, 2, champion)
    with pytest.raises(Killed):
        ask(engine, StoppedRegistry(tracking_server, stage, when), model, 3, champion)
    reconcile(engine, registry)
    assert load_waiting_versions(engine, model) == waiting
    with engine.connect() as connection:
        assert "intended" not in {one.state for one in load_history(connection, model)}
    ask(engine, registry, model, 3, champion)
    assert load_waiting_versions(engine, model) == [3]
    assert load_stages(registry, model) == {1: "Production", 2: "Archived", 3: "Staging"}


def test_nothing_waits_for_names_that_are_none(engine: Engine) -> None:
    away = Registry(f"http://127.0.0.1:{find_free_port()}")
    with engine.connect() as connection:
        assert load_approvals(connection, "x' OR '1'='1") == []
    with pytest.raises(Exception, match="is not a name for a model"):
        approve(engine, away, f"../{uuid.uuid4().hex}", 1, actor="bea")
