"""What a window of counts says beside its reference."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from core.errors import ReferenceRejected
from core.reference import Reference, build_reference, count_bins
from monitoring.drift import DriftMeasure, WindowCounts, measure_drift

NAMES = ("load", "speed", "lamp")


@pytest.fixture(scope="module")
def training() -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    return np.column_stack([rng.normal(5, 2, size=5000), rng.gamma(3, 10, size=5000), np.ones(5000)])


@pytest.fixture(scope="module")
def reference(training: NDArray[np.float64]) -> Reference:
    return build_reference(training, NAMES, ["N", "m/s", ""])


def count(reference: Reference, values: NDArray[np.float64], refusals: int = 0) -> WindowCounts:
    return WindowCounts(len(values), dict(zip(NAMES, count_bins(reference, values), strict=True)), refusals)


def measure(reference: Reference, values: NDArray[np.float64], minimum_effect: float = 0.1) -> DriftMeasure:
    return measure_drift(reference, count(reference, values), minimum_effect)


def draw(rows: int, seed: int = 2) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(5, 2, size=rows), rng.gamma(3, 10, size=rows), np.ones(rows)])


def test_a_fair_window_is_fine_and_keeps_the_order_of_features(reference: Reference) -> None:
    found = measure(reference, draw(1000))
    assert not found.is_drifted
    assert found.is_conclusive
    assert found.missing == ()
    assert found.drifted == ()
    assert tuple(feature.name for feature in found.features) == NAMES


def test_a_shift_is_found_with_scipys_numbers(reference: Reference, training: NDArray[np.float64]) -> None:
    window = draw(1000) + [0.8, 0.0, 0.0]
    found = measure(reference, window)
    assert [feature.name for feature in found.drifted] == ["load"]
    load = found.features[0]
    above = stats.mannwhitneyu(window[:, 0], training[:, 0]).statistic / (len(window) * len(training))
    location = np.sqrt(12) * abs(above - 0.5)
    assert location > stats.ks_2samp(training[:, 0], window[:, 0]).statistic
    assert load.statistic == pytest.approx(location, abs=0.01)
    distance = stats.wasserstein_distance(training[:, 0], window[:, 0]) / training[:, 0].std()
    assert load.effect == pytest.approx(distance, rel=0.05)


def test_drifted_features_come_with_the_largest_effect_first(reference: Reference) -> None:
    found = measure(reference, draw(1000) + [1.0, 40.0, 0.0])
    assert [feature.name for feature in found.drifted] == ["speed", "load"]


def test_a_shift_that_is_sure_but_too_small_to_matter_is_not_drift(reference: Reference) -> None:
    window = draw(100_000) + [0.12, 0.0, 0.0]
    small = measure(reference, window).features[0]
    assert small.statistic is not None and small.threshold is not None
    assert small.statistic > small.threshold
    assert not small.is_drifted
    assert measure(reference, window, minimum_effect=0.01).features[0].is_drifted


@pytest.mark.parametrize("rows", [0, 1, 49])
def test_nothing_is_said_about_too_few_rows(reference: Reference, rows: int) -> None:
    found = measure(reference, draw(rows) + 1000.0)
    assert not found.is_conclusive
    assert not found.is_drifted
    assert found.missing == ()


def test_a_window_of_one_repeated_value_is_drift(reference: Reference) -> None:
    window = draw(200)
    window[:, 0] = 5.0
    assert [feature.name for feature in measure(reference, window).drifted] == ["load"]


def test_a_feature_without_values_is_missing_and_not_drifted(reference: Reference) -> None:
    window = draw(200)
    window[:, 0] = np.nan
    found = measure(reference, window)
    assert found.missing == ("load",)
    assert not found.is_drifted
    assert found.features[0].statistic is None


def test_a_feature_that_was_never_counted_is_missing(reference: Reference) -> None:
    counts = dict(zip(NAMES, count_bins(reference, draw(200)), strict=True))
    del counts["speed"]
    assert measure_drift(reference, WindowCounts(200, counts), 0.1).missing == ("speed",)


def test_a_feature_with_a_handful_of_values_in_a_full_window_is_missing(reference: Reference) -> None:
    window = draw(1000)
    window[49:, 1] = np.inf
    assert measure(reference, window).missing == ("speed",)


def test_a_constant_that_changes_is_drift_from_a_tenth_of_the_rows_on(reference: Reference) -> None:
    for changed, is_drifted in ((0, False), (99, False), (100, True)):
        window = draw(1000)
        window[:changed, 2] = 0.0
        lamp = measure(reference, window).features[2]
        assert lamp.effect == pytest.approx(changed / 1000)
        assert lamp.is_drifted is is_drifted


def test_values_outside_the_range_of_training_have_an_effect(reference: Reference) -> None:
    window = draw(1000)
    window[:, 0] = 1e6
    load = measure(reference, window).features[0]
    assert load.statistic == pytest.approx(np.sqrt(3))
    assert load.effect is not None and load.effect > 3


def test_refusals_are_carried_along(reference: Reference) -> None:
    assert measure_drift(reference, count(reference, draw(100), refusals=7), 0.1).refusals == 7


def test_counts_of_other_bins_or_features_are_refused(reference: Reference) -> None:
    with pytest.raises(ReferenceRejected, match="'load' has .* bins, the window was counted in 3"):
        measure_drift(reference, WindowCounts(60, {"load": np.array([20, 20, 20])}), 0.1)
    with pytest.raises(ReferenceRejected, match="does not know: 'torque'"):
        measure_drift(reference, WindowCounts(60, {"torque": np.array([60])}), 0.1)
