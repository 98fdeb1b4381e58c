"""The reference against scipy's exact statistics, and the rates its thresholds promise."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from core.bins import (
    measure_distance,
    measure_ks,
    measure_location,
    measure_spread,
    measure_total_variation,
    measure_wasserstein,
)
from core.calibration import choose_block_length, measure_dependence
from core.errors import ReferenceRejected
from core.reference import (
    Reference,
    bin_index,
    build_reference,
    count_bins,
    find_threshold,
)

DRIFT_LEVEL = 1 - 0.9 * 0.04
"""The share of fair windows that drift leaves alone: a tenth of the target rate is for the checks of data quality."""
CALIBRATION_ERROR = 0.12
"""Four standard errors of a 96 % quantile out of a thousand resamples, relative."""


def build_one(values: NDArray[np.floating], **options: float) -> Reference:
    return build_reference(values.reshape(-1, 1), ["value"], ["mm"], target_rate=options.get("target_rate", 0.04))


def make_stream(rng: np.random.Generator, rows: int, features: int, factor: float) -> NDArray[np.float64]:
    """AR(1) streams `(rows, features)` of unit variance."""
    noise = rng.normal(size=(rows + 200, features)) * np.sqrt(1 - factor**2)
    return np.asarray(signal.lfilter([1], [1, -factor], noise, axis=0)[200:], dtype=np.float64)


def simulate_quantile(level: float) -> float:
    """The quantile of the distance of independent rows from what is known exactly, times the root of their number."""
    rows, samples = 1000, 4000
    shares = np.sort(np.random.default_rng(5).uniform(size=(samples, rows)), axis=1)
    steps = np.arange(rows) / rows
    form = np.maximum(shares - steps, steps + 1 / rows - shares).max(axis=1)
    location = np.sqrt(12) * np.abs(shares.mean(axis=1) - 0.5)
    spread = np.sqrt(48) * np.abs(np.abs(shares - 0.5).mean(axis=1) - 0.25)
    return float(np.quantile(np.max([form, location, spread], axis=0), level) * np.sqrt(rows))


def alarms(reference: Reference, window: NDArray[np.floating]) -> bool:
    counted = count_bins(reference, window)
    for feature, counts in zip(reference.features, counted, strict=True):
        threshold = find_threshold(reference, feature, len(window))
        assert threshold is not None
        if measure_distance(feature.count_array, counts) > threshold:
            return True
    return False


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.5, 3.0])
def test_counts_give_the_exact_distances_of_continuous_values(shift: float) -> None:
    rng = np.random.default_rng(1)
    training = rng.normal(10, 2, size=100_000)
    served = rng.normal(10 + 2 * shift, 2, size=100_000)
    feature = build_one(training).features[0]
    counts = count_bins(build_one(training), served.reshape(-1, 1))[0]
    assert measure_ks(feature.count_array, counts) == pytest.approx(
        stats.ks_2samp(training, served).statistic, abs=0.005
    )
    if shift <= 0.5:
        found = measure_wasserstein(feature.edge_array, feature.count_array, counts, beyond=feature.sd)
        assert found == pytest.approx(stats.wasserstein_distance(training, served), rel=0.05, abs=0.005 * feature.sd)


def test_counts_give_the_exact_distances_of_codes() -> None:
    rng = np.random.default_rng(2)
    training = rng.choice([0.0, 1.0, 2.0, 7.5], p=[0.5, 0.2, 0.2, 0.1], size=5000)
    served = rng.choice([0.0, 1.0, 2.0, 7.5], p=[0.3, 0.4, 0.1, 0.2], size=4000)
    feature = build_one(training).features[0]
    counts = count_bins(build_one(training), served.reshape(-1, 1))[0]
    assert measure_ks(feature.count_array, counts) == pytest.approx(
        stats.ks_2samp(training, served).statistic, abs=1e-12
    )
    found = measure_wasserstein(feature.edge_array, feature.count_array, counts, beyond=feature.sd)
    assert found == pytest.approx(stats.wasserstein_distance(training, served), abs=1e-5)


@pytest.mark.parametrize("shift", [-2.0, 0.0, 0.3])
def test_location_is_mann_and_whitneys_statistic_in_standard_deviations_of_a_rank(shift: float) -> None:
    rng = np.random.default_rng(3)
    training, served = rng.normal(size=50_000), rng.normal(shift, 1, size=2_000)
    reference = build_one(training)
    counts = count_bins(reference, served.reshape(-1, 1))[0]
    exact = stats.mannwhitneyu(served, training).statistic / (len(served) * len(training)) - 0.5
    found = measure_location(reference.features[0].count_array, counts)
    assert found == pytest.approx(np.sqrt(12) * abs(exact), abs=0.005)
    assert measure_distance(reference.features[0].count_array, counts) >= found


def test_distance_sees_a_change_of_form_that_leaves_the_location() -> None:
    rng = np.random.default_rng(4)
    training, served = rng.normal(size=20_000), 3 * rng.normal(size=2_000)
    reference = build_one(training)
    counts = count_bins(reference, served.reshape(-1, 1))[0]
    distance = measure_distance(reference.features[0].count_array, counts, "ks_location")
    assert distance == pytest.approx(stats.ks_2samp(training, served).statistic, abs=0.005)
    assert measure_location(reference.features[0].count_array, counts) < distance / 2


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
def test_spread_is_ansari_and_bradleys_statistic_in_standard_deviations_of_a_distance(factor: float) -> None:
    rng = np.random.default_rng(3)
    training, served = rng.normal(size=50_000), factor * rng.normal(size=2_000)
    reference = build_one(training)
    counts = count_bins(reference, served.reshape(-1, 1))[0]
    above = np.searchsorted(np.sort(training), served) / len(training)
    exact = np.sqrt(48) * abs(np.mean(np.abs(above - 0.5)) - 0.25)
    found = measure_spread(reference.features[0].count_array, counts)
    assert found == pytest.approx(exact, abs=0.005)
    assert measure_distance(reference.features[0].count_array, counts) >= found


def test_a_changed_deviation_is_found_by_the_spread_where_neither_form_nor_location_pass() -> None:
    rng = np.random.default_rng(9)
    reference = build_one(rng.normal(size=10_000))
    feature = reference.features[0]
    threshold = find_threshold(reference, feature, 1_000)
    assert threshold is not None
    seen, unseen = 0, 0
    for _ in range(50):
        counts = count_bins(reference, 1.15 * rng.normal(size=(1_000, 1)))[0]
        seen += measure_distance(feature.count_array, counts) > threshold
        unseen += measure_distance(feature.count_array, counts, "ks_location") > threshold
    assert seen > 45 and unseen < 25


def test_categories_are_told_apart_by_the_share_that_moved_and_their_code_means_nothing() -> None:
    rng = np.random.default_rng(5)
    codes = rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1], size=5_000).astype(float)
    reference = build_reference(codes[:, None], ["kind"], [""], categories=["kind"])
    feature = reference.features[0]
    assert feature.statistic == "total_variation"
    # One bin a category and one for what is unknown; nothing lies outside.
    assert [int(bin_index(feature, np.array([code]))[0]) for code in (0.0, 1.0, 2.0, 3.0, 4.0)] == sorted(
        {int(bin_index(feature, np.array([code]))[0]) for code in (0.0, 1.0, 2.0, 3.0, 4.0)}
    )
    swapped = np.where(codes == 1, 2.0, np.where(codes == 2, 1.0, codes))
    counts = count_bins(reference, swapped[:, None])[0]
    share = abs(float(np.mean(codes == 1) - np.mean(codes == 2)))
    assert measure_total_variation(feature.count_array, counts) == pytest.approx(share)
    assert measure_distance(feature.count_array, counts, feature.statistic) == pytest.approx(share)
    unknown = count_bins(reference, np.zeros((100, 1)))[0]
    assert measure_total_variation(feature.count_array, unknown) == 1.0


def test_rare_categories_share_a_bin_so_that_a_fair_window_does_not_alarm() -> None:
    rng = np.random.default_rng(6)
    shares = 1 / np.arange(1, 501)
    shares /= shares.sum()

    def draw(rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return rng.choice(np.arange(1, 501), p=shares, size=(rows, 1)).astype(float)

    alarms = 0
    for seed in range(60):
        reference = build_reference(draw(3_000), ["kind"], [""], categories=["kind"], seed=seed, window_sizes=(500,))
        feature = reference.features[0]
        assert len(feature.edges) < 110
        counts = count_bins(reference, draw(500))[0]
        threshold = find_threshold(reference, feature, 500)
        assert threshold is not None
        alarms += measure_distance(feature.count_array, counts, feature.statistic) > threshold
    assert alarms <= 8


def test_a_code_that_moves_to_a_value_in_between_is_seen() -> None:
    training = np.repeat([0.0, 1.0, 2.0], 100)
    reference = build_one(training)
    for before, after in ((0.0, -0.5), (1.0, 0.9), (2.0, 2.1)):
        served = np.where(training == before, after, training)
        counts = count_bins(reference, served.reshape(-1, 1))[0]
        assert measure_ks(reference.features[0].count_array, counts) == pytest.approx(1 / 3)


def test_counts_of_two_halves_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(3)
    reference = build_reference(rng.normal(size=(500, 2)), ["a", "b"], ["", ""])
    window = rng.normal(size=(300, 2))
    halves = [
        a + b for a, b in zip(count_bins(reference, window[:100]), count_bins(reference, window[100:]), strict=True)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(halves, count_bins(reference, window), strict=True))


def test_training_values_fall_into_the_stored_counts_and_none_outside_the_range() -> None:
    values = np.random.default_rng(4).gamma(2.0, size=(2000, 1))
    reference = build_reference(values, ["value"], ["s"])
    feature = reference.features[0]
    assert np.array_equal(count_bins(reference, values)[0], feature.count_array)
    assert feature.counts[0] == feature.counts[-1] == 0
    assert len(feature.edges) <= 99
    assert feature.mean == pytest.approx(values.mean(), rel=1e-6)
    assert feature.sd == pytest.approx(values.std(), rel=1e-6)
    assert bin_index(feature, np.array([-1.0, 1e6])).tolist() == [0, len(feature.edges)]


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    feature = build_one(np.random.default_rng(5).normal(size=1000)).features[0]
    assert bin_index(feature, feature.edge_array).tolist() == list(range(len(feature.edges)))


def test_values_that_are_not_finite_are_in_no_bin() -> None:
    reference = build_one(np.random.default_rng(6).normal(size=1000))
    window = np.array([0.0, np.nan, np.inf, -np.inf, 1e300])
    assert bin_index(reference.features[0], window)[1:].tolist() == [-1, -1, -1, -1]
    assert count_bins(reference, window.reshape(-1, 1))[0].sum() == 1


def test_a_constant_is_itself_in_either_precision_and_differs_from_all_else() -> None:
    reference = build_one(np.full(200, 0.1))
    feature = reference.features[0]
    assert feature.sd == 0.0
    assert set(feature.thresholds) == {0.0}
    for same in (np.full(100, 0.1), np.full(100, 0.1, dtype=np.float32)):
        assert measure_ks(feature.count_array, count_bins(reference, same.reshape(-1, 1))[0]) == 0.0
    for other in (0.0999, 0.1001):
        counts = count_bins(reference, np.full((100, 1), other))[0]
        assert measure_ks(feature.count_array, counts) == 1.0


def test_reference_survives_its_json() -> None:
    reference = build_reference(np.random.default_rng(7).normal(size=(300, 2)), ["a", "b"], ["mm", "°C"], seed=9)
    assert Reference.from_json(reference.to_json()) == reference


def test_the_same_rows_and_seed_give_the_same_reference() -> None:
    values = np.random.default_rng(8).normal(size=(300, 1))
    first, again, other = (build_reference(values, ["a"], [""], seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.features[0].thresholds != other.features[0].thresholds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": []}, "at least one feature"),
        ({"window_sizes": [100, 50]}, "threshold per window size"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_reference_that_contradicts_itself_is_refused(change: dict[str, object], said: str) -> None:
    document = json.loads(build_one(np.random.default_rng(9).normal(size=300)).to_json())
    with pytest.raises(ReferenceRejected, match=said):
        Reference.from_json(json.dumps({**document, **change}))


def test_edges_that_do_not_rise_and_counts_that_do_not_add_up_are_refused() -> None:
    document = json.loads(build_one(np.random.default_rng(9).normal(size=300)).to_json())
    for field in ("edges", "counts"):
        broken = json.loads(json.dumps(document))
        broken["features"][0][field][2] = broken["features"][0][field][1] + 5
        with pytest.raises(ReferenceRejected):
            Reference.from_json(json.dumps(broken))
    with pytest.raises(ReferenceRejected):
        Reference.from_json("{")


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf, 1e300])
def test_a_training_value_that_is_not_finite_is_refused_by_feature_and_row(fault: float) -> None:
    values = np.random.default_rng(10).normal(size=(100, 2))
    values[17, 1] = fault
    with pytest.raises(ReferenceRejected, match="1 values .* feature 'speed' at row 17"):
        build_reference(values, ["load", "speed"], ["N", "m/s"])


def test_too_few_rows_wrong_shapes_and_rates_are_refused() -> None:
    values = np.random.default_rng(11).normal(size=(49, 1))
    with pytest.raises(ReferenceRejected, match="49 training rows are too few"):
        build_reference(values, ["a"], [""])
    with pytest.raises(ReferenceRejected, match="do not fit 2 names"):
        build_reference(np.zeros((100, 1)), ["a", "b"], ["", ""])
    with pytest.raises(ReferenceRejected, match="between 0 and 1"):
        build_reference(np.zeros((100, 1)), ["a"], [""], target_rate=0.0)
    with pytest.raises(ReferenceRejected, match="do not fit its 1 features"):
        count_bins(build_one(np.zeros(100)), np.zeros((5, 2)))


def test_thresholds_fall_with_the_window_and_never_below_what_the_reference_itself_is_known_to() -> None:
    reference = build_one(np.random.default_rng(12).normal(size=2000))
    feature = reference.features[0]
    assert reference.window_sizes == (50, 100, 200, 500, 1000, 2000)
    assert find_threshold(reference, feature, 49) is None
    thresholds = [find_threshold(reference, feature, rows) for rows in (50, 70, 100, 300, 1000, 5000, 10**9)]
    assert None not in thresholds
    known = [threshold for threshold in thresholds if threshold is not None]
    assert known == sorted(known, reverse=True)
    # A window without end is left with the error of 2,000 rows.
    assert known[-1] == pytest.approx(simulate_quantile(DRIFT_LEVEL) / np.sqrt(2000), rel=CALIBRATION_ERROR)


def test_thresholds_of_independent_rows_are_the_theory_s() -> None:
    reference = build_one(np.random.default_rng(13).normal(size=10_000))
    quantile = simulate_quantile(DRIFT_LEVEL)
    for size, threshold in zip(reference.window_sizes, reference.features[0].thresholds, strict=True):
        exact = quantile * np.sqrt(1 / size + 1 / 10_000)
        assert threshold == pytest.approx(exact, rel=CALIBRATION_ERROR)


@pytest.mark.parametrize(("factor", "memory"), [(0.5, 1.333), (0.9, 9.474)])
def test_dependence_of_an_ar1_stream_is_the_theory_s(factor: float, memory: float) -> None:
    rng = np.random.default_rng(14)
    found = [measure_dependence(make_stream(rng, 10_000, 1, factor)[:, 0]) for _ in range(10)]
    assert np.mean(found) == pytest.approx(memory, rel=0.15)


def test_blocks_grow_with_dependence_and_stay_within_the_rows() -> None:
    assert choose_block_length(10_000, 0.0) == 1
    assert choose_block_length(10_000, 9.474) == 111
    assert choose_block_length(10_000, 1e6) == 300
    assert choose_block_length(60, 1e6) == 20


def test_dependence_sees_calm_and_wild_spells_of_uncorrelated_values() -> None:
    rng = np.random.default_rng(15)
    spread = np.exp(make_stream(rng, 10_000, 1, 0.95)[:, 0])
    assert measure_dependence(rng.normal(size=10_000) * spread) > 3
    assert measure_dependence(rng.normal(size=10_000)) < 1


@pytest.mark.parametrize("factor", [0.0, 0.9])
def test_fair_windows_rarely_alarm_and_shifted_ones_mostly_do(factor: float) -> None:
    checks, false_alarms, found = 200, 0, 0
    for check in range(checks):
        rng = np.random.default_rng([16, check])
        training = make_stream(rng, 3000, 4, factor)
        window = make_stream(rng, 500, 4, factor)
        reference = build_reference(training, list("abcd"), [""] * 4, seed=check, window_sizes=(500,))
        false_alarms += alarms(reference, window)
        window[:, 0] += 0.3 if factor == 0.0 else 1.0
        found += alarms(reference, window)
    # The largest count that a true rate of 7 % passes in one of 1,000 runs, and the smallest for a power of 90 %.
    assert false_alarms <= stats.binom.ppf(0.999, checks, 0.07)
    assert found >= stats.binom.ppf(0.001, checks, 0.9)


def test_a_slow_feature_does_not_hide_the_shift_of_a_fast_one() -> None:
    found = 0
    for check in range(40):
        rng = np.random.default_rng([17, check])
        training = np.hstack([make_stream(rng, 5000, 1, 0.0), make_stream(rng, 5000, 3, 0.95)])
        window = np.hstack([make_stream(rng, 1000, 1, 0.0) + 0.25, make_stream(rng, 1000, 3, 0.95)])
        reference = build_reference(training, list("abcd"), [""] * 4, seed=check, window_sizes=(1000,))
        feature = reference.features[0]
        threshold = find_threshold(reference, feature, 1000)
        assert threshold is not None
        found += measure_distance(feature.count_array, count_bins(reference, window)[0]) > threshold
    assert found >= 30
