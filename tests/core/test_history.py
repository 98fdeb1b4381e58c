"""What served at a time, and what transitions were decided on."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, event, insert, update

from core.errors import ParameterRejected
from core.findings import Finding, store_finding
from core.history import ServedAt, load_evidence, load_served_at
from core.tables.trainings import trainings
from core.tables.versions import target_changes, transitions, verdicts, version_names
from core.targets import load_target_changes, set_target
from core.trainings import request_training
from core.transitions import TransitionCause, load_history, store_transition
from core.verdicts import Check, Verdict, store_verdict

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = "prices"


def record(
    engine: Engine,
    minute: float,
    version: int,
    *,
    to_stage: str = "Production",
    from_stage: str = "None",
    cause: TransitionCause = "hand",
    is_finished: bool = True,
    model: str = MODEL,
) -> int:
    """A transition that ended so many minutes after noon."""
    with engine.begin() as connection:
        stored = store_transition(
            connection,
            model=model,
            version=version,
            from_stage=from_stage,
            to_stage=to_stage,
            previous_version=None,
            state="finished" if is_finished else "undone",
            origin="platform",
            actor="ann",
            cause=cause,
            reason="",
        )
        at = NOON + timedelta(minutes=minute)
        connection.execute(
            update(transitions).where(transitions.c.id == stored.id).values(intended_at=at, finished_at=at)
        )
    return stored.id


def choose(engine: Engine, minute: float, target: str, model: str = MODEL) -> None:
    with engine.begin() as connection:
        set_target(connection, model, target, "bea")
        newest = load_target_changes(connection, model, 1)[0]
        at = NOON + timedelta(minutes=minute)
        connection.execute(update(target_changes).where(target_changes.c.id == newest.id).values(set_at=at))


def look(engine: Engine, minute: float) -> ServedAt:
    with engine.connect() as connection:
        return load_served_at(connection, MODEL, NOON + timedelta(minutes=minute))


def test_version_that_served_is_found_at_every_time_of_a_history(engine: Engine) -> None:
    record(engine, 1, 1)
    record(engine, 2, 9, model="other")
    record(engine, 3, 2)
    record(engine, 4, 3, to_stage="Staging")
    record(engine, 5, 3, is_finished=False)
    record(engine, 6, 1, cause="rollback")
    record(engine, 7, 5, cause="external", from_stage="unknown")
    record(engine, 8, 5, cause="external", from_stage="Production", to_stage="Archived")
    record(engine, 9, 4)
    found = [look(engine, minute + 0.5).version for minute in range(10)]
    assert found == [None, 1, 1, 2, 2, 2, 1, 5, None, 4]
    assert look(engine, 3).version == 2
    assert look(engine, 2.99).version == 1


def test_times_that_tie_and_clocks_that_were_set_back_are_decided_by_the_order_of_the_moves(engine: Engine) -> None:
    record(engine, 5, 1)
    record(engine, 5, 2)
    assert look(engine, 5).version == 2
    # The clock was set back between two moves: the later one counts from its own time on.
    record(engine, 4, 3)
    assert [look(engine, minute).version for minute in (3, 4, 5, 6)] == [None, 3, 3, 3]


def test_target_that_was_set_decides_what_served_from_then_on(engine: Engine) -> None:
    with engine.begin() as connection:
        training, _ = request_training(connection, MODEL, cause="hand", actor="ann", is_enqueued=False)
        named = insert(version_names).values(model=MODEL, name="1.0.0", training_id=training.id, version=3)
        connection.execute(named)
    record(engine, 1, 1)
    choose(engine, 2, "2")
    record(engine, 3, 4)
    choose(engine, 4, "1.0.0")
    choose(engine, 5, "Production")
    choose(engine, 6, "20260301")
    choose(engine, 7, "Production")
    found = [look(engine, minute + 0.5) for minute in range(8)]
    assert [served.version for served in found] == [None, 1, 2, 2, 3, 4, None, 4]
    assert [served.production for served in found] == [None, 1, 1, 4, 4, 4, 4, 4]
    assert (found[1].target, found[1].target_set_by, found[1].target_set_at) == ("Production", None, None)
    pinned = found[2]
    assert (pinned.target, pinned.target_set_by, pinned.target_set_at) == ("2", "bea", NOON + timedelta(minutes=2))
    assert pinned.transition is not None and pinned.transition.version == 1


def test_latest_meant_what_had_passed_the_gate_by_then(engine: Engine) -> None:
    choose(engine, 0, "latest")
    for minute, version, outcome, approver in (
        (1, 1, "promote", None),
        (2, 2, "keep", None),
        (3, 3, "promote", "administrator"),
    ):
        with engine.begin() as connection:
            verdict = Verdict(MODEL, version, None, outcome, "", (), approver)  # type: ignore[arg-type]
            stored = store_verdict(connection, verdict, None)
            at = NOON + timedelta(minutes=minute)
            connection.execute(update(verdicts).where(verdicts.c.id == stored).values(decided_at=at))
    record(engine, 1, 1)
    record(engine, 5, 3, cause="approval")
    rolled_back = record(engine, 7, 1, cause="rollback")
    with engine.begin() as connection:
        connection.execute(update(transitions).where(transitions.c.id == rolled_back).values(previous_version=3))
    found = [look(engine, minute + 0.5).version for minute in range(8)]
    assert found == [None, 1, 1, 1, 1, 3, 3, 1]


def test_what_served_is_answered_by_one_query(engine: Engine) -> None:
    record(engine, 1, 1)
    choose(engine, 2, "latest")
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    look(engine, 3)
    assert len(statements) == 1


def test_time_may_name_its_zone_and_may_not_lie_ahead(engine: Engine) -> None:
    record(engine, 0, 1)
    with engine.connect() as connection:
        tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
        assert load_served_at(connection, MODEL, tokyo).version == 1
        assert load_served_at(connection, MODEL, NOON.replace(tzinfo=None)).version == 1
        with pytest.raises(ParameterRejected, match="it lies ahead"):
            load_served_at(connection, MODEL, datetime.now(UTC) + timedelta(minutes=5))


def test_targets_are_kept_in_the_order_in_which_they_were_set(engine: Engine) -> None:
    with engine.begin() as connection:
        for target, actor in (("2", "ann"), ("latest", "bea"), ("2", "ann")):
            set_target(connection, MODEL, target, actor)
        changes = load_target_changes(connection, MODEL)
    assert [(one.target, one.set_by) for one in changes] == [("2", "ann"), ("latest", "bea"), ("2", "ann")]
    assert changes[0].set_at >= changes[-1].set_at


def test_evidence_leads_from_a_transition_to_its_verdict_training_and_finding(engine: Engine) -> None:
    now = datetime.now(UTC)
    finding = Finding(
        id=uuid.uuid4(),
        model=MODEL,
        version=1,
        subject="drift",
        outcome="retrain",
        is_drifted=True,
        reasons=["Close drifted"],
        statistic=None,
        threshold=None,
        rows=100,
        measure={},
        report_uri=None,
        training_id=None,
        window_from_at=now,
        window_to_at=now,
        found_at=now,
    )
    alarm = replace(finding, id=uuid.uuid4(), reasons=["60 of 100 requests failed"], subject="probation")
    check = Check("baseline", True, 0.9, 1.0, "smaller")
    with engine.begin() as connection:
        store_finding(connection, finding)
        store_finding(connection, alarm)
        training, _ = request_training(
            connection, MODEL, cause="finding", actor="platform", finding_id=finding.id, is_enqueued=False
        )
        connection.execute(update(trainings).values(run_id="a" * 32))
        verdict_id = store_verdict(connection, Verdict(MODEL, 2, 1, "promote", "better", (check,)), training.id)
    gated, rolled_back, bare = record(engine, 1, 2), record(engine, 2, 1, cause="rollback"), record(engine, 3, 3)
    with engine.begin() as connection:
        connection.execute(update(transitions).where(transitions.c.id == gated).values(verdict_id=verdict_id))
        connection.execute(update(transitions).where(transitions.c.id == rolled_back).values(finding_id=alarm.id))
        history = load_history(connection, MODEL)
        evidence = load_evidence(connection, history)
        assert [one.id for one in load_history(connection, MODEL, before=bare)] == [rolled_back, gated]
    made = evidence[gated]
    assert made.verdict is not None and made.verdict.verdict.checks == (check,)
    assert (made.training_id, made.training_cause, made.run_id) == (training.id, "finding", "a" * 32)
    assert (made.finding_id, made.finding_reasons) == (finding.id, ("Close drifted",))
    assert (evidence[rolled_back].finding_id, evidence[rolled_back].verdict) == (alarm.id, None)
    assert evidence[bare].verdict is None and evidence[bare].finding_id is None
