import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from mlflow import MlflowClient
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import OperationalError

from core.database import TRANSITIONS_CHANNEL, listening
from core.errors import (
    AttemptSuperseded,
    ModelVersionNotFound,
    NothingToRollBackTo,
    ParameterRejected,
    TrackingUnavailable,
    VerdictStands,
)
from core.mlflow_rest import MlflowRest
from core.promotion import promote, promote_by_hand, rollback
from core.reconciliation import reconcile
from core.registry import RegisteredVersion, Registry, Standing
from core.tables.trainings import trainings
from core.trainings import hold_attempt, request_training, start_attempt
from core.transitions import Transition, load_history
from core.verdicts import Verdict, VerdictOutcome, store_verdict
from tests.conftest import find_free_port

AddVersion = Callable[[], int]


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """The session's database: these tests keep apart by models of their own."""
    return shared_engine


class Killed(Exception):
    pass


class StoppedRegistry(Registry):
    """A registry whose caller ends at one call: before it, or after MLflow has done it."""

    def __init__(self, tracking_uri: str, call: str, when: str) -> None:
        super().__init__(tracking_uri)
        self._stop = (call, when)

    def _run(self, call: str, action: Callable[[], None]) -> None:
        if self._stop == (call, "before"):
            raise Killed
        action()
        if self._stop == (call, "after"):
            raise Killed

    def move_to_stage(self, model: str, version: int, stage: str) -> None:
        self._run("move", lambda: super(StoppedRegistry, self).move_to_stage(model, version, stage))

    def set_alias(self, model: str, version: int | None) -> None:
        self._run("alias", lambda: super(StoppedRegistry, self).set_alias(model, version))


class InterruptedRegistry(Registry):
    """A registry beside which something else happens right after the stage has moved."""

    def __init__(self, tracking_uri: str, event: Callable[[], object]) -> None:
        super().__init__(tracking_uri)
        self._event = event

    def move_to_stage(self, model: str, version: int, stage: str) -> None:
        super().move_to_stage(model, version, stage)
        self._event()


def load_all(engine: Engine, model: str) -> list[Transition]:
    with engine.connect() as connection:
        return load_history(connection, model)


def load_stages(registry: Registry, model: str) -> dict[int, str]:
    return {version.version: version.stage for version in registry.load_versions(model)}


# --- promote -----------------------------------------------------------------------------------------------------


def test_promotion_moves_stage_and_alias_and_records_who_and_why(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for _ in range(2):
        add_version()
    promote(engine, registry, model, 1, actor="ann", cause="hand")
    with engine.begin() as connection:
        verdict_id = store_verdict(connection, Verdict(model, 2, 1, "promote", "smaller error", ()), None)
    done = promote(
        engine, registry, model, 2, actor="trainer", cause="gate", reason="smaller error", verdict_id=verdict_id
    )
    assert load_stages(registry, model) == {2: "Production", 1: "Archived"}
    assert registry.load_standing(model) == Standing(production=2, alias=2)
    assert (done.version, done.previous_version, done.from_stage, done.to_stage) == (2, 1, "None", "Production")
    assert (done.actor, done.cause, done.reason, done.verdict_id) == ("trainer", "gate", "smaller error", verdict_id)
    assert (done.state, done.origin) == ("finished", "platform")
    assert done.finished_at is not None
    assert done.intended_at <= done.finished_at
    history = load_all(engine, model)
    assert [entry.version for entry in history] == [2, 1]
    assert history[0] == done


def test_promotion_notifies_when_it_is_done(
    engine: Engine, database_url: str, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    with listening(database_url, TRANSITIONS_CHANNEL) as connection:
        promote(engine, registry, model, 1, actor="ann", cause="hand")
        heard = list(connection.notifies(timeout=2.0, stop_after=1))
    assert [notice.payload for notice in heard] == [model]


def test_promotion_of_what_is_in_production_records_nothing_and_returns_what_brought_it_there(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    first = promote(engine, registry, model, 1, actor="ann", cause="hand")
    again = promote(engine, registry, model, 1, actor="bob", cause="hand")
    assert again == first
    assert load_all(engine, model) == [first]


def test_promotion_of_an_unknown_version_changes_nothing(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    with pytest.raises(ModelVersionNotFound, match="existing are 1"):
        promote(engine, registry, model, 7, actor="ann", cause="hand")
    assert load_all(engine, model) == []
    assert registry.load_standing(model) == Standing(None, None)


# --- by hand -----------------------------------------------------------------------------------------------------


def decide(engine: Engine, model: str, version: int, outcome: VerdictOutcome) -> uuid.UUID:
    with engine.begin() as connection:
        return store_verdict(connection, Verdict(model, version, None, outcome, "no improvement shown", ()), None)


@pytest.mark.parametrize("outcome", ["keep", "refuse", "insufficient_evidence", None])
def test_promotion_by_hand_against_the_verdict_needs_an_override_and_its_reason(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion, outcome: VerdictOutcome | None
) -> None:
    add_version()
    verdict_id = None if outcome is None else decide(engine, model, 1, outcome)
    with pytest.raises(VerdictStands, match="--override"):
        promote_by_hand(engine, registry, model, 1, actor="ann", reason="I like it")
    with pytest.raises(ParameterRejected, match="reason"):
        promote_by_hand(engine, registry, model, 1, actor="ann", reason=" ", is_override=True)
    assert load_all(engine, model) == []
    done = promote_by_hand(engine, registry, model, 1, actor="ann", reason="it must", is_override=True)
    assert (done.cause, done.reason, done.actor, done.verdict_id) == ("override", "it must", "ann", verdict_id)
    assert load_all(engine, model) == [done]
    assert registry.load_standing(model) == Standing(1, 1)
    # It is there already: nothing is asked again.
    assert promote_by_hand(engine, registry, model, 1, actor="bob") == done


def test_promotion_by_hand_of_a_version_that_passed_needs_no_override(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    decide(engine, model, 1, "keep")
    decide(engine, model, 1, "promote")
    assert promote_by_hand(engine, registry, model, 1, actor="ann").cause == "hand"
    with pytest.raises(ModelVersionNotFound):
        promote_by_hand(engine, registry, model, 9, actor="ann", is_override=True, reason="it must")


# --- guard -------------------------------------------------------------------------------------------------------


def begin_training(engine: Engine, model: str) -> uuid.UUID:
    with engine.begin() as connection:
        training, _ = request_training(connection, model, cause="hand", actor="ann", is_enqueued=False)
        start_attempt(connection, training.id)
        return training.id


def test_promotion_by_a_superseded_attempt_changes_nothing(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    training_id = begin_training(engine, model)
    with engine.begin() as connection:
        start_attempt(connection, training_id)
    with pytest.raises(AttemptSuperseded):
        promote(
            engine,
            registry,
            model,
            1,
            actor="trainer",
            cause="gate",
            guard=lambda connection, _production: hold_attempt(connection, training_id, 1),
        )
    assert load_all(engine, model) == []
    assert registry.load_standing(model) == Standing(None, None)


def test_promotion_holds_its_attempt_until_it_is_done(
    engine: Engine, tracking_server: str, model: str, add_version: AddVersion
) -> None:
    add_version()
    training_id = begin_training(engine, model)
    refusals = []

    def try_to_supersede() -> None:
        with engine.connect() as connection, pytest.raises(OperationalError, match="lock") as refusal:
            connection.execute(select(trainings).where(trainings.c.id == training_id).with_for_update(nowait=True))
        refusals.append(refusal)

    promote(
        engine,
        InterruptedRegistry(tracking_server, try_to_supersede),
        model,
        1,
        actor="trainer",
        cause="gate",
        guard=lambda connection, _production: hold_attempt(connection, training_id, 1),
    )
    assert len(refusals) == 1
    with engine.begin() as connection:
        assert start_attempt(connection, training_id).attempt == 2


# --- several at once ---------------------------------------------------------------------------------------------


def test_promotions_at_once_are_done_one_after_another_and_both_recorded(
    engine: Engine, tracking_server: str, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for _ in range(4):
        add_version()
    promote(engine, registry, model, 1, actor="ann", cause="hand")
    start = threading.Barrier(3)

    def administrate(version: int) -> Transition:
        own = Registry(tracking_server)
        start.wait()
        return promote(engine, own, model, version, actor=f"admin {version}", cause="hand")

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(administrate, (2, 3, 4)))
    history = list(reversed(load_all(engine, model)))
    assert {entry.version for entry in done} == {2, 3, 4}
    assert all(entry.state == "finished" for entry in history)
    assert [entry.previous_version for entry in history] == [None, *(entry.version for entry in history[:-1])]
    assert registry.load_standing(model) == Standing(history[-1].version, history[-1].version)
    assert sorted(load_stages(registry, model).values()) == ["Archived", "Archived", "Archived", "Production"]


def test_two_administrators_at_once_many_times_leave_one_version_in_production_and_each_move_recorded(
    engine: Engine, tracking_server: str, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for _ in range(2):
        add_version()
    rounds = 12
    start = threading.Barrier(2)

    def administrate(version: int) -> list[Transition]:
        own, done = Registry(tracking_server), []
        for number in range(rounds):
            start.wait()
            if number % 3 == 2 and version == 1:
                with suppress(NothingToRollBackTo):
                    done.append(rollback(engine, own, model, actor="admin 1"))
            else:
                done.append(promote(engine, own, model, version, actor=f"admin {version}", cause="hand"))
        return done

    with ThreadPoolExecutor(2) as pool:
        answers = [one for done in pool.map(administrate, (1, 2)) for one in done]
    history = list(reversed(load_all(engine, model)))
    assert {one.id for one in answers} == {one.id for one in history}
    assert all(one.state == "finished" for one in history)
    assert [one.previous_version for one in history] == [None, *(one.version for one in history[:-1])]
    last = history[-1].version
    assert registry.load_standing(model) == Standing(last, last)
    assert sorted(load_stages(registry, model).values()) == ["Archived", "Production"]
    assert [one for one in reconcile(engine, registry) if one.model == model] == []


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "when", "state", "production"),
    [
        ("move", "before", "undone", 1),
        ("move", "after", "finished", 2),
        ("alias", "before", "finished", 2),
        ("alias", "after", "finished", 2),
    ],
)
def test_promotion_that_stops_between_two_steps_is_completed_or_undone(
    call: str,
    when: str,
    state: str,
    production: int,
    engine: Engine,
    tracking_server: str,
    registry: Registry,
    model: str,
    add_version: AddVersion,
) -> None:
    for _ in range(2):
        add_version()
    promote(engine, registry, model, 1, actor="ann", cause="hand")
    with pytest.raises(Killed):
        promote(engine, StoppedRegistry(tracking_server, call, when), model, 2, actor="ann", cause="hand")
    assert [entry.state for entry in load_all(engine, model)] == ["intended", "finished"]

    settled = reconcile(engine, registry)

    ours = [entry for entry in settled if entry.model == model]
    assert [(entry.version, entry.state, entry.origin) for entry in ours] == [(2, state, "platform")]
    assert registry.load_standing(model) == Standing(production, production)
    assert [entry.state for entry in load_all(engine, model)] == [state, "finished"]
    assert [entry for entry in reconcile(engine, registry) if entry.model == model] == []


_DYING = """
import os, sys
from core.database import create_database_engine
from core.promotion import promote
from core.registry import Registry

class Dying(Registry):
    def set_alias(self, model, version):
        os._exit(9)

uri, model = sys.argv[1:]
promote(create_database_engine(os.environ["DATABASE_URL"]), Dying(uri), model, 2, actor="ann", cause="hand")
"""


def test_next_promotion_settles_what_a_killed_process_left(
    engine: Engine,
    database_url: str,
    tracking_server: str,
    registry: Registry,
    model: str,
    add_version: AddVersion,
) -> None:
    for _ in range(3):
        add_version()
    promote(engine, registry, model, 1, actor="ann", cause="hand")
    killed = subprocess.run(
        [sys.executable, "-c", _DYING, tracking_server, model],
        env={**os.environ, "DATABASE_URL": database_url},
        check=False,
    )
    assert killed.returncode == 9
    done = promote(engine, registry, model, 3, actor="bob", cause="hand")
    assert done.previous_version == 2
    history = load_all(engine, model)
    assert [(entry.version, entry.state) for entry in history] == [(3, "finished"), (2, "finished"), (1, "finished")]


def test_promotion_without_a_tracking_server_changes_nothing_and_lets_the_lock_go(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    away = Registry(f"http://127.0.0.1:{find_free_port()}")
    with pytest.raises(TrackingUnavailable, match="Connection refused"):
        promote(engine, away, model, 1, actor="ann", cause="hand")
    assert load_all(engine, model) == []
    assert promote(engine, registry, model, 1, actor="ann", cause="hand").state == "finished"


class LosingRegistry(Registry):
    """A registry whose server goes away when the stage is to be moved."""

    def move_to_stage(self, model: str, version: int, stage: str) -> None:
        self._rest = MlflowRest(f"http://127.0.0.1:{find_free_port()}", 1)
        super().move_to_stage(model, version, stage)


def test_promotion_that_loses_the_tracking_server_is_undone(
    engine: Engine, tracking_server: str, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    with pytest.raises(TrackingUnavailable):
        promote(engine, LosingRegistry(tracking_server), model, 1, actor="ann", cause="hand")
    ours = [entry for entry in reconcile(engine, registry) if entry.model == model]
    assert [(entry.version, entry.state) for entry in ours] == [(1, "undone")]


def test_promotion_overtaken_by_a_person_in_mlflow_is_recorded_and_the_person_honoured(
    engine: Engine, tracking_server: str, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for _ in range(3):
        add_version()
    client = MlflowClient(tracking_server, tracking_server)

    def move_by_hand() -> None:
        with pytest.warns(FutureWarning, match="stages"):
            client.transition_model_version_stage(model, "3", "Production", archive_existing_versions=True)

    done = promote(engine, InterruptedRegistry(tracking_server, move_by_hand), model, 2, actor="ann", cause="hand")
    assert (done.version, done.state) == (2, "finished")
    ours = [entry for entry in reconcile(engine, registry) if entry.model == model]
    assert [(entry.version, entry.previous_version, entry.origin) for entry in ours] == [(3, 2, "external")]
    assert registry.load_standing(model) == Standing(3, 3)


class DisturbedRegistry(Registry):
    """A registry beside which a person moves another version to Production, before or after one of its calls."""

    def __init__(self, tracking_uri: str, call: str, when: str, disturb: Callable[[], None]) -> None:
        super().__init__(tracking_uri)
        self._place = (call, when)
        self._disturb = disturb

    def _run(self, call: str, action: Callable[[], None]) -> None:
        if self._place == (call, "before"):
            self._disturb()
        action()
        if self._place == (call, "after"):
            self._disturb()

    def move_to_stage(self, model: str, version: int, stage: str) -> None:
        self._run("move", lambda: super(DisturbedRegistry, self).move_to_stage(model, version, stage))

    def set_alias(self, model: str, version: int | None) -> None:
        self._run("alias", lambda: super(DisturbedRegistry, self).set_alias(model, version))

    def get_version(self, model: str, version: int) -> RegisteredVersion:
        found: list[RegisteredVersion] = []
        self._run("get", lambda: found.append(super(DisturbedRegistry, self).get_version(model, version)))
        return found[0]


@pytest.mark.parametrize(
    ("call", "when", "is_person_last"),
    [
        ("get", "before", False),
        ("get", "after", False),
        ("move", "before", False),
        ("move", "after", True),
        ("alias", "before", True),
        ("alias", "after", True),
    ],
)
def test_stage_moved_in_mlflow_around_each_call_of_a_promotion_leaves_one_truth(
    call: str,
    when: str,
    is_person_last: bool,
    engine: Engine,
    tracking_server: str,
    registry: Registry,
    model: str,
    add_version: AddVersion,
) -> None:
    for _ in range(3):
        add_version()
    promote(engine, registry, model, 1, actor="ann", cause="hand")
    client = MlflowClient(tracking_server, tracking_server)

    def move_by_hand() -> None:
        with pytest.warns(FutureWarning, match="stages"):
            client.transition_model_version_stage(model, "3", "Production", archive_existing_versions=True)

    disturbed = DisturbedRegistry(tracking_server, call, when, move_by_hand)
    assert promote(engine, disturbed, model, 2, actor="ann", cause="hand").state == "finished"
    reconcile(engine, registry)

    production = 3 if is_person_last else 2
    assert registry.load_standing(model) == Standing(production, production)
    assert [stage for stage in load_stages(registry, model).values() if stage == "Production"] == ["Production"]
    newest = load_all(engine, model)[0]
    assert (newest.version, newest.origin) == (production, "external" if is_person_last else "platform")


def test_history_is_in_order_of_the_moves_whatever_the_clocks_say(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for _ in range(3):
        add_version()
    promote(engine, registry, model, 1, actor="ann", cause="hand")
    promote(engine, registry, model, 2, actor="ann", cause="hand")
    with engine.begin() as connection:
        tomorrow = "UPDATE transitions SET intended_at = intended_at + interval '1 day', finished_at = finished_at"
        connection.execute(
            text(f"{tomorrow} + interval '1 day' WHERE model = :model AND version = 1"), {"model": model}
        )
    promote(engine, registry, model, 3, actor="ann", cause="hand")
    assert [entry.version for entry in load_all(engine, model)] == [3, 2, 1]
    assert [entry for entry in reconcile(engine, registry) if entry.model == model] == []
    assert rollback(engine, registry, model, actor="ann").version == 2


def test_guard_that_raises_is_passed_on(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()

    def refuse(_connection: Connection, _production: int | None) -> None:
        raise Killed

    with pytest.raises(Killed):
        promote(engine, registry, model, 1, actor="ann", cause="gate", guard=refuse)
    assert load_all(engine, model) == []
