"""Which data are broken: each check against an oracle, and against windows that are fair."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from core.policies import DriftPolicy
from core.reference import QualityRate, Reference, build_reference, count_bins
from monitoring.drift import WindowCounts
from monitoring.quality import QualityCheck, check_quality, measure_excess
from monitoring.traffic import Traffic

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = DriftPolicy()
NAMES = ("load", "prediction")


@pytest.fixture(scope="module")
def reference() -> Reference:
    values = np.random.default_rng(1).normal(size=(2_000, 2))
    rates = [
        QualityRate(column="age", kind="imputed", position=1, faulty=200, rows=2_000),
        QualityRate(column="kind", kind="unknown", position=2, faulty=0, rows=300),
    ]
    return build_reference(
        values, NAMES, ["", ""], predictions=["prediction"], quality=rates, window_sizes=(50,), rows_an_hour=6.0
    )


def count(reference: Reference, rows: int = 1_000, nan: int = 0, refusals: int = 0, **faults: int) -> WindowCounts:
    """A window of `rows` fair rows, `nan` of them without a load; faults are named `column__kind`."""
    values = np.random.default_rng(2).normal(size=(rows, 2))
    values[:nan, 0] = np.nan
    counts = dict(zip(NAMES, count_bins(reference, values), strict=True))
    named = {(name.split("__")[0], name.split("__")[1]): number for name, number in faults.items()}
    return WindowCounts(rows, counts, refusals, named)


def find_broken(
    reference: Reference | None, window: WindowCounts, traffic: Traffic | None = None
) -> list[QualityCheck]:
    return [one for one in check_quality(reference, window, traffic or Traffic(NOW), POLICY) if one.is_broken]


@pytest.mark.parametrize(
    ("faulty", "rows", "usual", "usual_rows"), [(30, 1000, 20, 1000), (3, 50, 0, 100), (1, 1, 5, 9)]
)
def test_the_excess_of_faults_has_scipys_beta_binomial_tail(
    faulty: int, rows: int, usual: int, usual_rows: int
) -> None:
    exact = stats.betabinom.sf(faulty - 1, rows, usual + 0.5, usual_rows - usual + 0.5)
    assert measure_excess(faulty, rows, usual, usual_rows) == pytest.approx(exact, rel=1e-6)
    assert measure_excess(0, rows, usual, usual_rows) == 1.0


def test_fair_windows_exceed_as_often_as_the_tail_says_since_both_are_samples() -> None:
    rng = np.random.default_rng(3)
    below = np.mean(
        [
            measure_excess(int(rng.binomial(500, 0.1)), 500, int(rng.binomial(500, 0.1)), 500) < 0.05
            for _ in range(2_000)
        ]
    )
    # Against a reference taken as exact it would be 0.12.
    assert below == pytest.approx(0.05, abs=0.015)


def test_faults_that_come_in_spells_are_less_sure() -> None:
    assert measure_excess(160, 1_000, 100, 1_000, dependence=10.0) > 20 * measure_excess(160, 1_000, 100, 1_000)


def test_nothing_is_broken_in_a_fair_window(reference: Reference) -> None:
    window = count(reference, refusals=3, age__imputed=105, load__bounds=3, kind__unknown=2)
    assert find_broken(reference, window, Traffic(NOW, (1_000,) * 10)) == []


@pytest.mark.parametrize(
    ("faults", "kind", "said"),
    [
        ({"nan": 120}, "not_counted", "load had no finite value in 120 of 1000 rows (12.0%), in training in 0.0%"),
        ({"age__imputed": 260}, "imputed", "age was absent in 260 of 1000 rows (26.0%), in training in 10.0%"),
        ({"kind__unknown": 90}, "unknown", "kind had an unknown category in 90 of 1000 rows (9.0%)"),
        ({"refusals": 250, "load__bounds": 250}, "bounds", "load was out of bounds in 250 of 1250 requests (20.0%)"),
        ({"refusals": 90, "kind__category": 90}, "category", "kind was none of the allowed categories"),
        ({"refusals": 90, "age__type": 90}, "type", "age was of a wrong type"),
        ({"refusals": 90, "load__not_finite": 90}, "not_finite", "load was not finite"),
        ({"refusals": 90, "load__absent": 90}, "absent", "load was missing"),
    ],
)
def test_each_fault_is_named_by_column_and_kind(
    reference: Reference, faults: dict[str, int], kind: str, said: str
) -> None:
    (found,) = find_broken(reference, count(reference, **faults))
    assert found.kind == kind
    assert found.sentence.startswith(said)


def test_a_sure_difference_that_does_not_matter_breaks_nothing(reference: Reference) -> None:
    window = count(reference, 10_000, nan=300)
    (check,) = [one for one in check_quality(reference, window, Traffic(NOW), POLICY) if one.kind == "not_counted"]
    assert check.p_value is not None and check.p_value < 1e-6
    assert not check.is_broken


def test_too_few_rows_say_nothing(reference: Reference) -> None:
    assert find_broken(reference, count(reference, 60, nan=40)) == []
    assert find_broken(reference, count(reference, 0)) == []


def test_refusals_are_judged_without_a_reference() -> None:
    window = WindowCounts(500, {}, 300, {("load", "bounds"): 300, ("", "form"): 300})
    (found,) = find_broken(None, window)
    assert (found.column, found.kind) == ("load", "bounds")


def test_a_day_with_a_fraction_of_the_usual_requests_is_told_of(reference: Reference) -> None:
    def judge(*days: int) -> list[str]:
        return [one.kind for one in find_broken(reference, count(reference), Traffic(NOW, days))]

    usual = (980, 1_020, 1_000, 950, 1_060, 1_010, 990, 1_000)
    assert judge(100, *usual) == ["volume"]
    assert judge(0, *usual) == ["volume"]
    assert judge(9_000, *usual) == ["volume"]
    assert judge(900, *usual) == []
    # Days that differ as much by themselves, and too few of them, say nothing.
    assert judge(100, 0, 2_000, 10, 900, 0, 4_000, 50, 800) == []
    assert judge(0, *usual[:6]) == []


def test_silence_and_stale_observations_are_told_of_where_a_limit_is_declared() -> None:
    policy = DriftPolicy(served_within_h=6, observations_within_h=48)
    traffic = Traffic(NOW, served_at=NOW - timedelta(hours=7), observed_at=NOW - timedelta(hours=49))
    checks = check_quality(None, WindowCounts(0, {}), traffic, policy)
    assert [one.sentence for one in checks if one.is_broken] == [
        "no new requests came for 7 hours, 6 are allowed",
        "no new observations came for 49 hours, 48 are allowed",
    ]
    fresh = Traffic(NOW, served_at=NOW - timedelta(hours=5), observed_at=NOW + timedelta(hours=3))
    assert not any(one.is_broken for one in check_quality(None, WindowCounts(0, {}), fresh, policy))
    assert check_quality(None, WindowCounts(0, {}), traffic, POLICY) == ()


def test_predictions_from_the_future_are_a_fault_of_a_clock() -> None:
    (found,) = check_quality(None, WindowCounts(300, {}), Traffic(NOW, ahead=200), POLICY)
    assert found.is_broken and "ahead of the database's clock (40.0%)" in found.sentence
    (few,) = check_quality(None, WindowCounts(300, {}), Traffic(NOW, ahead=5), POLICY)
    assert not few.is_broken
