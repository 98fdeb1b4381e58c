"""The policy as a table of cases."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from core.errors import ParameterRejected
from core.findings import Outcome
from core.policies import DriftPolicy
from monitoring.drift import DriftMeasure, FeatureDrift
from monitoring.policy import PastCheck, Realised, decide
from monitoring.quality import QualityCheck

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = DriftPolicy()


def make_measure(drifted: bool, *, rows: int = 1000, refusals: int = 0, missing: tuple[str, ...] = ()) -> DriftMeasure:
    feature = FeatureDrift(
        "speed", rows, 0.2 if drifted else 0.01, 0.05, 0.6 if drifted else 0.02, drifted, is_open=drifted
    )
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
        (make_measure(False), [], "fine", "nothing drifted"),
        (make_measure(True, rows=99), [(1, True, "alert")], "fine", "99 rows are too few"),
        (make_measure(True), [], "alert", "1 of the last 3 checks speak"),
        (make_measure(True), [(1, True, "alert")], "retrain", "2 of the last 3 checks"),
        (make_measure(True), [(1, False, "fine"), (2, True, "alert")], "retrain", "2 of the last 3 checks"),
        (make_measure(True), [(2, True, "alert"), (1, False, "fine")], "retrain", "2 of the last 3 checks"),
        (make_measure(True), [(1, False, "fine"), (2, False, "fine"), (3, True, "alert")], "alert", "1 of the last 3"),
        (make_measure(False), [(1, True, "alert"), (2, True, "alert")], "fine", "nothing drifted"),
        (make_measure(True), [(1, True, "data_incident")], "alert", "1 of the last 3 checks speak"),
        (make_measure(True), [(1, True, "retrain")], "alert", "1 of the last 3 checks speak"),
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


@pytest.mark.parametrize(
    ("history", "is_tentative"),
    [
        ([], True),
        ([(1, True, "alert")], False),
        # Not confirmed anew since a retraining; then confirmed, and cooling down.
        ([(1, True, "retrain")], True),
        ([(1, True, "alert"), (2, True, "retrain")], False),
    ],
)
def test_drift_is_tentative_until_it_is_confirmed(
    history: list[tuple[float, bool, Outcome]], is_tentative: bool
) -> None:
    checks = make_history(*history, an_hour=200)
    assert decide(checks, make_measure(True), POLICY, NOW, served=SERVED).is_tentative == is_tentative


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
        ("minimum_share", 0.0),
        ("clear_share", 1.1),
        ("served_within_h", 0.0),
        ("observations_within_h", float("inf")),
    ],
)
def test_policy_refuses_values_out_of_range_by_name(field: str, value: float) -> None:
    with pytest.raises(ParameterRejected, match=f"{field}="):
        DriftPolicy(**{field: value})  # type: ignore[arg-type]  # the table mixes whole numbers and others


def make_realised(verdict: Literal["better", "same", "worse"]) -> Realised:
    error = {"better": 0.5, "same": 1.0, "worse": 1.5}[verdict]
    return Realised(verdict, "mae", 400, error, 1.0, error - 0.1, error + 0.1)


def test_a_worse_realised_error_retrains_without_any_drift_once_it_is_confirmed() -> None:
    worse = make_realised("worse")
    first = decide([], make_measure(False), POLICY, NOW, served=SERVED, realised=worse)
    assert (first.outcome, first.speaks) == ("alert", True)
    assert first.reasons[0] == (
        "the realised mae of 400 outcomes is 1.5 (1.4 to 1.6), worse than the 1 of its evaluation"
    )
    history = make_history((1, True, "alert"))
    assert decide(history, make_measure(False), POLICY, NOW, served=SERVED, realised=worse).outcome == "retrain"
    # Outcomes of the window that has too few predictions are outcomes all the same.
    few = make_measure(False, rows=3)
    assert decide(history, few, POLICY, NOW, served=SERVED, realised=worse).outcome == "retrain"
    # Broken data comes first, and so does the cooldown.
    assert (
        decide(history, make_measure(False, missing=("load",)), POLICY, NOW, served=SERVED, realised=worse).outcome
        == "data_incident"
    )
    cooling = make_history((1, True, "alert"), (2, True, "retrain"))
    assert decide(cooling, make_measure(False), POLICY, NOW, served=SERVED, realised=worse).outcome == "alert"


@pytest.mark.parametrize("verdict", ["better", "same"])
def test_a_drift_that_outcomes_show_to_do_no_harm_retrains_nothing_and_confirms_nothing(
    verdict: Literal["better", "same"],
) -> None:
    history = make_history((1, True, "alert"))
    decision = decide(history, make_measure(True), POLICY, NOW, served=SERVED, realised=make_realised(verdict))
    assert (decision.outcome, decision.speaks) == ("alert", False)
    assert "the drift does no harm" in decision.reasons[-1]
    assert ("the same as the 1 of" if verdict == "same" else "better than the 1 of") in decision.reasons[1]
    calm = decide([], make_measure(False), POLICY, NOW, served=SERVED, realised=make_realised(verdict))
    assert calm.outcome == "fine"


def test_a_drift_clears_below_a_lower_level_than_it_fires() -> None:
    before = [PastCheck(NOW - timedelta(hours=1), True, "alert", SERVED - 100, open_features=("speed",))]
    between = FeatureDrift("speed", 1000, 0.045, 0.05, 0.2, False, is_open=True)
    measure = DriftMeasure(1000, 0, (between,), (), True)
    still = decide(before, measure, POLICY, NOW, served=SERVED)
    assert (still.outcome, still.speaks, still.open_features) == ("alert", False, ("speed",))
    assert still.is_tentative
    assert still.reasons == ("speed drifted before and is not below 80% of its threshold",)
    # The same distance fires nothing by itself, and what is below the lower level has cleared.
    assert decide([], measure, POLICY, NOW, served=SERVED).outcome == "fine"
    cleared = decide(before, make_measure(False), POLICY, NOW, served=SERVED)
    assert (cleared.outcome, cleared.open_features) == ("fine", ())
    # An incident in between says nothing about it.
    incident = decide(before, make_measure(False, missing=("load",)), POLICY, NOW, served=SERVED)
    assert incident.open_features == ("speed",)


def test_a_retraining_that_met_an_open_one_neither_cools_down_nor_ends_what_confirms() -> None:
    met = PastCheck(NOW - timedelta(hours=1), True, "retrain", SERVED - 100, is_met=True)
    assert decide([met], make_measure(True), POLICY, NOW, served=SERVED).outcome == "retrain"
    started = PastCheck(NOW - timedelta(hours=1), True, "retrain", SERVED - 100)
    assert decide([started], make_measure(True), POLICY, NOW, served=SERVED).outcome == "alert"


def test_a_clock_that_was_years_ahead_does_not_stop_retrainings_until_then() -> None:
    policy = DriftPolicy(confirm_checks=1, confirm_of=1)
    history = make_history((-24 * 365, True, "retrain"))
    assert decide(history, make_measure(True), policy, NOW, served=SERVED).outcome == "retrain"


def test_broken_data_is_an_incident_with_every_reason_and_never_a_retraining() -> None:
    broken = QualityCheck("bounds", "load", 0.3, 0.0, 1e-9, True, "load was out of bounds")
    fine = QualityCheck("imputed", "speed", 0.0, 0.0, 1.0, False, "")
    history = make_history((1, True, "alert"))
    measure = make_measure(True, missing=("lamp",))
    decision = decide(history, measure, POLICY, NOW, served=SERVED, quality=[fine, broken])
    assert decision.outcome == "data_incident"
    assert [("lamp" in reason, "load" in reason) for reason in decision.reasons[:2]] == [(True, False), (False, True)]
    assert not decision.speaks


def test_a_version_without_a_reference_is_told_of() -> None:
    measure = DriftMeasure(1000, 0, (), (), False, fault="version 3 has no reference.json")
    decision = decide([], measure, POLICY, NOW, served=SERVED)
    assert (decision.outcome, decision.reasons) == ("alert", ("version 3 has no reference.json",))
