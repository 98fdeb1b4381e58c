"""Versions on probation: the rule, and what the platform does about one that fails."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, update

from core.alerts import load_alerts
from core.connections import Connections
from core.database import lock_model
from core.errors import ParameterRejected, TrackingUnavailable
from core.findings import Finding, load_findings
from core.policies import ProbationPolicy
from core.promotion import promote, promote_by_hand, rollback
from core.registry import Registry
from core.tables.predictions import request_counts
from core.tables.versions import transitions
from core.transitions import load_history
from ingestion.batches import Batch
from ingestion.outcomes import store_outcomes
from monitoring import probation
from monitoring.probation import SUBJECT, ProbationMeasure, judge_probation, watch_probation
from tests.conftest import find_free_port
from tests.outcomes.predicting import START, build_series, declare, hours, ship

AddVersion = Callable[[], int]
POLICY = ProbationPolicy()

# --- the rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (ProbationMeasure(1000, 50), []),
        (ProbationMeasure(949, 51), ["51 of 1000 requests failed (5.1%), 5.0% are allowed"]),
        (ProbationMeasure(0, 49), []),
        (ProbationMeasure(0, 50), ["50 of 50 requests failed (100.0%), 5.0% are allowed"]),
        (ProbationMeasure(100, 0, outcomes=49, error=9.0, lower=8.0, baseline_error=1.0), []),
        (ProbationMeasure(100, 0, outcomes=50, error=9.0, lower=1.5, baseline_error=1.0), []),
        (
            ProbationMeasure(100, 0, outcomes=50, error=9.0, lower=1.6, baseline_error=1.0),
            [
                "the realised error over 50 outcomes is 9, at least 1.6; 1.5 times the baseline's 1 is allowed",
            ],
        ),
        (ProbationMeasure(100, 0, outcomes=50, error=9.0, lower=8.0, baseline_error=None), []),
        (ProbationMeasure(100, 0, outcomes=50, error=9.0, lower=None, baseline_error=1.0), []),
        (ProbationMeasure(0, 0), []),
    ],
)
def test_version_has_to_go_beyond_the_share_of_failures_or_the_realised_error_that_is_allowed(
    measure: ProbationMeasure, said: list[str]
) -> None:
    assert list(judge_probation(measure, POLICY)) == said


@pytest.mark.parametrize(
    "given",
    [
        {"hours": -1.0},
        {"hours": float("inf")},
        {"most_failures": 1.0},
        {"most_failures": -0.1},
        {"most_error": 0.0},
        {"minimum_requests": 0},
        {"minimum_outcomes": 0},
    ],
)
def test_policy_out_of_its_range_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ParameterRejected, match=next(iter(given))):
        ProbationPolicy(**given)  # type: ignore[arg-type]  # a case each


# --- what is done ------------------------------------------------------------------------------------------------


def count(connections: Connections, model: str, version: int, *, answers: int, failures: int) -> None:
    with connections.engine.begin() as connection:
        connection.execute(
            insert(request_counts).values(
                model=model,
                version=version,
                hour=datetime.now(UTC).replace(minute=0, second=0, microsecond=0),
                predictions=answers,
                refusals=500,
                answers=answers,
                failures=failures,
            )
        )


def watch(connections: Connections, model: str) -> Finding | None:
    return watch_probation(connections, model, POLICY)


def take_production(connections: Connections, model: str, *versions: int) -> None:
    for version in versions:
        promote(connections.engine, connections.registry, model, version, actor="trainer", cause="gate")


def load_found(connections: Connections, model: str) -> list[Finding]:
    with connections.engine.connect() as connection:
        return load_findings(connection, model, subject=SUBJECT)


@pytest.fixture
def failing(connections: Connections, model: str, add_version: AddVersion) -> str:
    """A model whose second version took Production from the first, and fails."""
    for _ in range(3):
        add_version()
    take_production(connections, model, 1, 2)
    count(connections, model, 2, answers=60, failures=40)
    return model


def test_failing_version_is_rolled_back_once_with_its_numbers(connections: Connections, failing: str) -> None:
    finding = watch(connections, failing)
    assert finding is not None
    with connections.engine.connect() as connection:
        newest = load_history(connection, failing)[0]
    assert (newest.version, newest.previous_version, newest.cause, newest.actor) == (1, 2, "rollback", "platform")
    assert newest.reason == "40 of 100 requests failed (40.0%), 5.0% are allowed; back to version 1"
    assert newest.finding_id == finding.id
    assert connections.registry.load_standing(failing).production == 1
    [stored] = load_found(connections, failing)
    assert (stored.version, stored.outcome, stored.rows) == (2, "alert", 100)
    assert (stored.measure["answers"], stored.measure["failures"]) == (60, 40)
    # What was restored is not on probation, however it does.
    count(connections, failing, 1, answers=0, failures=100)
    assert watch(connections, failing) is None
    assert connections.registry.load_standing(failing).production == 1


@pytest.mark.parametrize(("scale", "is_rolled_back"), [(10.0, True), (1.0, False)])
def test_version_whose_outcomes_show_too_large_an_error_is_rolled_back(
    connections: Connections,
    model: str,
    add_version: AddVersion,
    tmp_path: Path,
    scale: float,
    is_rolled_back: bool,
) -> None:
    for _ in range(2):
        add_version()
    take_production(connections, model, 2, 1)
    contract = build_series(model)
    declare(connections.engine, contract, "mae")
    generator = np.random.default_rng(5)
    came = 100 + np.cumsum(generator.normal(0, 1, 60))
    before = np.repeat(np.concatenate([[100.0], came[:-1]])[:, None], 4, axis=1)
    said = came + scale * generator.normal(0, 1, 60)
    ship(connections.engine, tmp_path, model, said[:, None], inputs=before, keys=hours(60, first=1))
    rows = [
        {"machine": "m1", "at": (START + timedelta(hours=1 + hour)).isoformat(), "reading": float(value)}
        for hour, value in enumerate(came)
    ]
    batch = Batch([b"{}"] * len(rows), rows, kind="rest", name="o", actor="test")
    store_outcomes(connections.engine, contract, batch)
    with connections.engine.begin() as connection:
        connection.execute(update(transitions).where(transitions.c.model == model).values(finished_at=START))

    found = watch_probation(connections, model, ProbationPolicy(hours=100.0), START + timedelta(hours=70))

    assert (found is not None) == is_rolled_back
    assert connections.registry.load_standing(model).production == (2 if is_rolled_back else 1)
    if found is not None:
        error, baseline = np.abs(said - came).mean(), np.abs(before[:, 0] - came).mean()
        assert found.measure["outcomes"] == 60
        assert found.measure["error"] == pytest.approx(error, rel=1e-5)
        assert found.measure["baseline_error"] == pytest.approx(baseline, rel=1e-5)
        assert found.reasons[0].startswith("the realised error over 60 outcomes is ")
        assert "1.5 times the baseline's" in found.reasons[0]


def test_version_that_a_person_promotes_again_stays(connections: Connections, failing: str) -> None:
    assert watch(connections, failing) is not None
    engine, registry = connections.engine, connections.registry
    promote_by_hand(engine, registry, failing, 2, actor="ann", reason="the clients are mended", is_override=True)
    assert watch(connections, failing) is None
    assert registry.load_standing(failing).production == 2
    assert len(load_found(connections, failing)) == 1


def test_alert_of_a_version_that_was_rolled_back_is_over_so_that_the_next_one_is_told_of(
    connections: Connections, failing: str
) -> None:
    assert watch(connections, failing) is not None
    watch(connections, failing)
    take_production(connections, failing, 3)
    count(connections, failing, 3, answers=0, failures=60)
    assert watch(connections, failing) is not None
    with connections.engine.connect() as connection:
        second, first = load_alerts(connection, failing)
    assert (second.cause, second.cleared_at, second.times) == ("probation", None, 1)
    assert first.cleared_reason == "Production has moved since, with version 1"


def test_version_without_a_good_one_before_it_stays_with_one_alert(
    connections: Connections, model: str, add_version: AddVersion
) -> None:
    add_version()
    take_production(connections, model, 1)
    count(connections, model, 1, answers=0, failures=100)
    assert [watch(connections, model) for _ in range(3)] == [None, None, None]
    [alert] = load_found(connections, model)
    assert alert.outcome == "alert"
    assert "no good version was there before it, so it stays" in alert.reasons
    assert connections.registry.load_standing(model).production == 1


def test_version_that_answers_is_left_alone(connections: Connections, model: str, add_version: AddVersion) -> None:
    for _ in range(2):
        add_version()
    take_production(connections, model, 1, 2)
    # Clients' faults, 500 of them, do not count.
    count(connections, model, 2, answers=100, failures=2)
    assert watch(connections, model) is None
    assert load_found(connections, model) == []
    assert watch(connections, "nothing") is None


def test_version_past_its_first_hours_is_left_alone(connections: Connections, failing: str) -> None:
    with connections.engine.begin() as connection:
        earlier = datetime.now(UTC) - timedelta(hours=POLICY.hours, minutes=1)
        connection.execute(update(transitions).where(transitions.c.model == failing).values(finished_at=earlier))
    assert watch(connections, failing) is None
    assert watch_probation(connections, failing, ProbationPolicy(hours=0.0)) is None
    assert load_found(connections, failing) == []


def test_rollback_waits_for_the_tracking_server_and_is_then_done_on_the_same_finding(
    connections: Connections, failing: str
) -> None:
    class Losing(Registry):
        def move_to_stage(self, *_: object) -> None:
            raise TrackingUnavailable("http://tracking", "it went away")

    cut = Connections(connections.settings, connections.database_url, connections.engine)
    cut.__dict__["registry"] = Losing(connections.settings.tracking_address)
    with pytest.raises(TrackingUnavailable):
        watch(cut, failing)
    [stored] = load_found(connections, failing)
    done = watch(connections, failing)
    assert done is not None and done.id == stored.id
    assert connections.registry.load_standing(failing).production == 1
    assert len(load_found(connections, failing)) == 1


def test_tracking_server_that_is_away_leaves_no_finding(connections: Connections, failing: str) -> None:
    away = Connections(connections.settings, connections.database_url, connections.engine)
    away.__dict__["registry"] = Registry(f"http://127.0.0.1:{find_free_port()}")
    with pytest.raises(TrackingUnavailable):
        watch(away, failing)
    assert load_found(connections, failing) == []


def test_version_is_not_judged_while_someone_moves_a_stage(connections: Connections, failing: str) -> None:
    with connections.engine.begin() as connection:
        lock_model(connection, failing)
        assert watch(connections, failing) is None
    assert load_found(connections, failing) == []
    assert watch(connections, failing) is not None


def test_person_who_moves_production_after_the_judgement_comes_first(
    connections: Connections, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*given: Any, **named: Any) -> object:
        promote(connections.engine, connections.registry, failing, 3, actor="ann", cause="hand")
        return rollback(*given, **named)

    monkeypatch.setattr(probation, "rollback", overtaken)
    assert watch(connections, failing) is None
    with connections.engine.connect() as connection:
        newest = load_history(connection, failing)[0]
    assert (newest.version, newest.actor) == (3, "ann")
    assert connections.registry.load_standing(failing).production == 3
