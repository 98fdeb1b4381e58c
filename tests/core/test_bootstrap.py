import numpy as np
import pytest
from scipy import stats

from core.bootstrap import bootstrap_mean_interval, choose_block_length


def test_interval_of_independent_rows_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=400)
    low, high = bootstrap_mean_interval(values, confidence=0.95, block_length=1, seed=2, samples=20_000)
    oracle = stats.bootstrap(
        (values,), np.mean, confidence_level=0.95, method="percentile", n_resamples=20_000, rng=np.random.default_rng(3)
    ).confidence_interval
    assert low == pytest.approx(oracle.low, abs=0.005)
    assert high == pytest.approx(oracle.high, abs=0.005)


def test_blocks_widen_the_interval_of_an_autocorrelated_series_to_what_its_mean_really_varies() -> None:
    generator = np.random.default_rng(4)
    rows, phi, covered = 500, 0.7, 0
    noise = generator.normal(size=(300, rows))
    series = np.zeros_like(noise)
    for row in range(1, rows):
        series[:, row] = phi * series[:, row - 1] + noise[:, row]
    naive_covered = 0
    for values in series:
        low, high = bootstrap_mean_interval(values, confidence=0.95, block_length=25, seed=5, samples=500)
        covered += low <= 0 <= high
        low, high = bootstrap_mean_interval(values, confidence=0.95, block_length=1, seed=5, samples=500)
        naive_covered += low <= 0 <= high
    assert covered / len(series) > 0.85
    assert naive_covered / len(series) < 0.75


def test_interval_is_the_same_for_the_same_seed_and_holds_the_mean() -> None:
    values = np.random.default_rng(6).normal(3.0, 1.0, 250)
    once = bootstrap_mean_interval(values, confidence=0.9, block_length=6, seed=7)
    assert once == bootstrap_mean_interval(values, confidence=0.9, block_length=6, seed=7)
    assert once[0] < values.mean() < once[1]


def test_a_series_shorter_than_its_block_gives_its_own_mean() -> None:
    assert bootstrap_mean_interval(np.array([1.0, 2.0]), confidence=0.9, block_length=9, seed=1) == (1.5, 1.5)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (8, 2), (343, 7), (1000, 10)])
def test_block_length_is_the_cube_root(rows: int, length: int) -> None:
    assert choose_block_length(rows) == length
