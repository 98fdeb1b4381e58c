"""Rollback: which version is good, and the way back to it."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine

from core.errors import NothingToRollBackTo, VerdictStands
from core.promotion import build_good_versions, promote, promote_by_hand, rollback
from core.registry import Registry, Standing
from core.transitions import Transition, TransitionCause
from core.verdicts import Verdict, VerdictOutcome, load_passed_versions, store_verdict

AddVersion = Callable[[], int]


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """The session's database: these tests keep apart by models of their own."""
    return shared_engine


def load_stages(registry: Registry, model: str) -> dict[int, str]:
    return {version.version: version.stage for version in registry.load_versions(model)}


def decide(engine: Engine, model: str, version: int, outcome: VerdictOutcome) -> uuid.UUID:
    with engine.begin() as connection:
        return store_verdict(connection, Verdict(model, version, None, outcome, "no improvement shown", ()), None)


def test_rollback_goes_back_one_good_version_at_a_time(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for version in (1, 2, 3):
        add_version()
        promote(engine, registry, model, version, actor="ann", cause="hand")
    back = rollback(engine, registry, model, actor="bob", reason="errors rose")
    assert (back.version, back.previous_version, back.cause, back.reason) == (2, 3, "rollback", "errors rose")
    assert load_stages(registry, model) == {3: "Archived", 2: "Production", 1: "Archived"}
    assert registry.load_standing(model) == Standing(2, 2)
    assert rollback(engine, registry, model, actor="bob").version == 1
    with pytest.raises(NothingToRollBackTo):
        rollback(engine, registry, model, actor="bob")
    assert registry.load_standing(model) == Standing(1, 1)


def test_rollback_skips_a_version_that_was_deleted(
    engine: Engine, tracking_server: str, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for version in (1, 2, 3):
        add_version()
        promote(engine, registry, model, version, actor="ann", cause="hand")
    MlflowClient(tracking_server, tracking_server).delete_model_version(model, "2")
    assert rollback(engine, registry, model, actor="bob").version == 1


def test_rollback_of_a_model_that_was_never_registered_is_refused(
    engine: Engine, registry: Registry, model: str
) -> None:
    with pytest.raises(NothingToRollBackTo):
        rollback(engine, registry, model, actor="bob")


def test_rolling_back_again_never_returns_to_what_was_rolled_back_from(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for _ in range(3):
        add_version()
    for version in (1, 2, 3, 2):
        promote(engine, registry, model, version, actor="ann", cause="hand")
    # Before 2 there was 3, before that 2 itself, which is bad now.
    assert [rollback(engine, registry, model, actor="ann").version for _ in range(2)] == [3, 1]
    with pytest.raises(NothingToRollBackTo):
        rollback(engine, registry, model, actor="ann")


def test_version_that_was_rolled_back_from_is_not_promoted_by_its_own_verdict(
    engine: Engine, registry: Registry, model: str, add_version: AddVersion
) -> None:
    for version in (1, 2):
        add_version()
        decide(engine, model, version, "promote")
        promote_by_hand(engine, registry, model, version, actor="ann")
    rollback(engine, registry, model, actor="bob", reason="too many errors")
    with engine.connect() as connection:
        assert load_passed_versions(connection, model) == [1]
    with pytest.raises(VerdictStands, match="rolled back from by bob: too many errors"):
        promote_by_hand(engine, registry, model, 2, actor="ann")
    done = promote_by_hand(engine, registry, model, 2, actor="ann", is_override=True, reason="mended upstream")
    assert done.cause == "override"
    with engine.connect() as connection:
        assert load_passed_versions(connection, model) == [2, 1]


def build_history(*moves: tuple[TransitionCause, int] | tuple[TransitionCause, int, str]) -> Sequence[Transition]:
    now = datetime.now(UTC)
    entries = [
        Transition(
            id=number,
            model="prices",
            version=move[1],
            from_stage="None",
            to_stage=move[2] if len(move) == 3 else "Production",
            previous_version=None,
            state="finished",
            origin="external" if move[0] == "external" else "platform",
            actor="ann",
            cause=move[0],
            reason="",
            verdict_id=None,
            intended_at=now,
            finished_at=now,
        )
        for number, move in enumerate(moves)
    ]
    return list(reversed(entries))


def test_good_versions_leave_out_what_was_rolled_back_from() -> None:
    rolled_back = build_history(("gate", 1), ("gate", 2), ("gate", 3), ("rollback", 2))
    assert build_good_versions(rolled_back) == [1, 2]
    replaced = build_history(("gate", 1), ("gate", 2), ("gate", 3), ("rollback", 2), ("gate", 4))
    assert build_good_versions(replaced) == [1, 2, 4]
    trusted_again = build_history(("gate", 1), ("gate", 2), ("rollback", 1), ("hand", 2), ("gate", 3))
    assert build_good_versions(trusted_again) == [1, 2, 3]
    back_and_forth = build_history(("gate", 1), ("gate", 2), ("hand", 1), ("rollback", 2))
    assert build_good_versions(back_and_forth) == [2]


def test_good_versions_keep_a_move_by_hand_and_drop_what_a_person_took_out() -> None:
    assert build_good_versions(build_history(("gate", 1), ("gate", 2), ("external", 1))) == [1, 2, 1]
    assert build_good_versions(build_history(("gate", 1), ("gate", 2), ("external", 2, "Archived"))) == [1]
