"""The policy as a table of cases."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors import ParameterRejected
from core.findings import Outcome
from core.policies import DriftPolicy
from monitoring.drift import DriftMeasure, FeatureDrift
from monitoring.policy import PastCheck, decide

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = DriftPolicy()


def make_measure(drifted: bool, *, rows: int = 1000, refusals: int = 0, missing: tuple[str, ...] = ()) -> DriftMeasure:
    feature = FeatureDrift("speed", rows, 0.2 if drifted else 0.01, 0.05, 0.6 if drifted else 0.02, drifted)
    return DriftMeasure(rows, refusals, (feature,), missing, rows >= 50)


SERVED = 100_000


def make_history(*checks: tuple[float, bool, Outcome], an_hour: int = 100) -> list[PastCheck]:
    """Checks as (hours ago, drifted, outcome), with `an_hour` predictions between one hour and the next."""
    return [
        PastCheck(NOW - timedelta(hours=hours), drifted, outcome, SERVED - round(hours * an_hour))
        for hours, drifted, outcome in checks
    ]


@pytest.mark.parametrize(
    ("measure", "history", "outcome", "said"),
    [
        (make_measure(False), [], "fine", "no feature drifted"),
        (make_measure(True, rows=99), [(1, True, "alert")], "fine", "99 rows are too few"),
        (make_measure(True), [], "alert", "1 of the last 3 checks"),
        (make_measure(True), [(1, True, "alert")], "retrain", "2 of the last 3 checks"),
        (make_measure(True), [(1, False, "fine"), (2, True, "alert")], "retrain", "2 of the last 3 checks"),
        (make_measure(True), [(2, True, "alert"), (1, False, "fine")], "retrain", "2 of the last 3 checks"),
        (make_measure(True), [(1, False, "fine"), (2, False, "fine"), (3, True, "alert")], "alert", "1 of the last 3"),
        (make_measure(False), [(1, True, "alert"), (2, True, "alert")], "fine", "no feature drifted"),
        (make_measure(True), [(1, True, "data_incident")], "alert", "1 of the last 3 checks"),
        (make_measure(True), [(1, True, "retrain")], "alert", "1 of the last 3 checks"),
        (make_measure(True), [(1, True, "alert"), (2, True, "retrain")], "alert", "within the cooldown of 24 hours"),
        (make_measure(True), [(1, True, "alert"), (25, True, "retrain")], "retrain", "2 of the last 3 checks"),
        (make_measure(True, missing=("load",)), [(1, True, "alert")], "data_incident", "no values to judge for load"),
        (make_measure(True, refusals=1001), [(1, True, "alert")], "data_incident", "1001 requests were refused"),
        (make_measure(False, rows=0, refusals=100), [], "data_incident", "100 requests were refused"),
        (make_measure(False, rows=0, refusals=99), [], "fine", "0 rows are too few"),
        (make_measure(True, refusals=999), [(1, True, "alert")], "retrain", "2 of the last 3 checks"),
    ],
)
def test_decision_follows_the_table(
    measure: DriftMeasure, history: list[tuple[float, bool, Outcome]], outcome: Outcome, said: str
) -> None:
    decision = decide(make_history(*history), measure, POLICY, NOW, served=SERVED)
    assert decision.outcome == outcome
    assert said in " ".join(decision.reasons)


def test_a_check_of_the_same_rows_confirms_nothing() -> None:
    policy = DriftPolicy(minimum_rows=100)
    few = make_history((1, True, "alert"), an_hour=99)
    assert decide(few, make_measure(True), policy, NOW, served=SERVED).outcome == "alert"
    # Nor do two that saw the same rows count as two.
    strict = DriftPolicy(minimum_rows=100, confirm_checks=3, confirm_of=3)
    close = make_history((2.5, True, "alert"), (2, True, "alert"))
    assert decide(close, make_measure(True), strict, NOW, served=SERVED).outcome == "alert"
    apart = make_history((2.5, True, "alert"), (1.2, True, "alert"))
    assert decide(apart, make_measure(True), strict, NOW, served=SERVED).outcome == "retrain"


def test_one_of_one_retrains_at_once() -> None:
    policy = DriftPolicy(confirm_checks=1, confirm_of=1)
    assert decide([], make_measure(True), policy, NOW, served=SERVED).outcome == "retrain"


def test_no_cooldown_lets_the_next_confirmed_check_retrain() -> None:
    history = make_history((0.5, True, "retrain"))
    policy = DriftPolicy(confirm_checks=1, confirm_of=1, cooldown_h=0.0)
    assert decide(history, make_measure(True), policy, NOW, served=SERVED).outcome == "retrain"


def test_a_retraining_that_a_fast_clock_put_into_the_future_still_cools_down() -> None:
    policy = DriftPolicy(confirm_checks=1, confirm_of=1)
    assert (
        decide(make_history((-2, True, "retrain")), make_measure(True), policy, NOW, served=SERVED).outcome == "alert"
    )


def test_reasons_name_the_feature_its_distance_and_its_effect() -> None:
    reasons = decide([], make_measure(True), POLICY, NOW, served=SERVED).reasons
    assert reasons[0] == "speed drifted: distance 0.200 above its threshold 0.050, effect 0.60 standard deviations"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("minimum_rows", 0),
        ("target_rate", 0.0),
        ("target_rate", 1.0),
        ("minimum_effect", -0.1),
        ("minimum_effect", float("nan")),
        ("confirm_checks", 0),
        ("confirm_of", 1),
        ("cooldown_h", -1.0),
        ("window_h", 0.0),
        ("window_h", float("inf")),
    ],
)
def test_policy_refuses_values_out_of_range_by_name(field: str, value: float) -> None:
    with pytest.raises(ParameterRejected, match=f"{field}="):
        DriftPolicy(**{field: value})  # type: ignore[arg-type]  # the table mixes whole numbers and others
