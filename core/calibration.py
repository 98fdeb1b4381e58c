"""Thresholds of a reference: how far samples of its own rows stray from it, drawn as autocorrelated as they came."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.bins import RANKS_A_SD, SPREADS_A_SD, Statistic, build_ridits

RESAMPLES = 1000
RESAMPLED_VALUES = 2_000_000


def measure_dependence(values: NDArray[np.floating]) -> float:
    """How long one feature `(rows,)` remembers, in rows: 0 for independent rows, 9.5 for AR(1) with a factor of 0.9.

    The sum of autocovariances weighted by their lag over their plain sum, with the flat-top weights and the bandwidth
    rule of Politis and White 2004. It is taken of the ranks and of their distance from the middle rank, the larger
    counts: ranks because the statistic knows nothing else and no outlier can sway them, the distance because prices
    change in calm and wild spells whose changes are uncorrelated in sign.
    """
    _, inverse, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties + 1) / 2)[inverse] / len(values)
    return max(_measure_memory(ranks), _measure_memory(np.abs(ranks - ranks.mean())))


def choose_block_length(rows: int, dependence: float) -> int:
    """Rows per block for a reference of `rows` rows whose most dependent feature remembers `dependence` rows.

    The rule of Politis and White 2004 for the circular bootstrap, as corrected by Patton, Politis and White 2009.
    """
    wanted = (1.5 * dependence**2 * rows) ** (1 / 3)
    return int(np.ceil(np.clip(wanted, 1.0, min(3 * np.sqrt(rows), rows / 3))))


def correct_for_blocks(dependences: NDArray[np.float64], block_length: int, size: int) -> NDArray[np.float64]:
    """Factors `(features,)` of at least 1 by which blocks make a sample stray less than a stream of `size` rows does.

    Rows on both sides of a cut do not know of each other: the variance of a mean lacks the share
    `dependence / block_length`, where a whole stream lacks `dependence / size`. A share is bounded at a half.
    """
    in_blocks = np.minimum(dependences / min(block_length, size), 0.5)
    in_stream = np.minimum(dependences / size, 0.5)
    return np.asarray(np.sqrt((1 - in_stream) / (1 - in_blocks)))


def _measure_memory(series: NDArray[np.float64]) -> float:
    rows = len(series)
    run = max(5, int(np.ceil(np.sqrt(np.log10(rows)))))
    highest = min(int(np.ceil(np.sqrt(rows))) + run, rows - 1)
    covariances = _autocovariances(series, 2 * highest)
    if covariances[0] <= 1e-12:
        return 0.0
    # The bandwidth is twice the lag after which `run` autocorrelations in a row are not significant.
    significant = np.abs(covariances[1 : highest + 1] / covariances[0]) >= 2 * np.sqrt(np.log10(rows) / rows)
    last = highest
    for lag in range(highest - run + 1):
        if not significant[lag : lag + run].any():
            last = lag
            break
    bandwidth = 2 * max(last, 1)
    lags = np.arange(1, min(bandwidth, len(covariances) - 1) + 1)
    weighted = np.clip(2 * (1 - lags / bandwidth), 0, 1) * covariances[lags]
    total = covariances[0] + 2 * np.sum(weighted)
    return float(np.abs(2 * np.sum(lags * weighted)) / total) if total > 0 else 0.0


def _estimate_scales(distances: NDArray[np.float64], block_length: int, rows: int) -> NDArray[np.float64]:
    """How far each feature strays by itself, `(features,)`, from `distances (samples, features)`.

    The means over the samples, in logarithms and drawn towards their common mean as far as their differences may be
    chance (Efron and Morris 1975): alike features share one scale, which is better known than that of each, and
    unlike ones keep their own. The chance part is the variance of a standard deviation estimated with blocks,
    `block_length / (3 * rows)`, and that of a mean over samples.
    """
    scales = distances.mean(axis=0)
    moving = scales > 0
    if moving.sum() < 2:
        return np.asarray(scales)
    logarithms = np.log(scales[moving])
    chance = block_length / (3 * rows) + np.mean((distances.std(axis=0)[moving] / scales[moving]) ** 2) / len(distances)
    spread = np.var(logarithms, ddof=1)
    kept = max(0.0, 1 - chance / spread) if spread > 0 else 0.0
    scales[moving] = np.exp(logarithms.mean() + kept * (logarithms - logarithms.mean()))
    return np.asarray(scales)


def _autocovariances(series: NDArray[np.float64], lags: int) -> NDArray[np.float64]:
    """Autocovariances of `series (rows,)` at lags 0 to `lags`, by the Fourier transform."""
    rows = len(series)
    length = 1 << (2 * rows - 1).bit_length()
    spectrum = np.fft.rfft(series - series.mean(), length)
    return np.asarray(np.fft.irfft(np.abs(spectrum) ** 2, length)[: min(lags, rows - 1) + 1] / rows)


def calibrate(
    bins: Sequence[NDArray[np.int64]],
    counts: Sequence[NDArray[np.int64]],
    size: int,
    block_length: int,
    statistics: Sequence[Statistic],
    target_rate: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Thresholds `(features,)` for windows of `size` rows beside a reference that is taken as exact."""
    rows = len(bins[0])
    length = min(block_length, size)
    distances = np.empty((RESAMPLES, len(bins)))
    step = max(1, RESAMPLED_VALUES // size)
    for first in range(0, RESAMPLES, step):
        samples = min(step, RESAMPLES - first)
        starts = rng.integers(0, rows, size=(samples, -(-size // length), 1))
        drawn = ((starts + np.arange(length)).reshape(samples, -1)[:, :size]) % rows
        for index, (column, expected) in enumerate(zip(bins, counts, strict=True)):
            width = len(expected)
            flat = column[drawn] + width * np.arange(samples)[:, np.newaxis]
            found = np.bincount(flat.ravel(), minlength=samples * width).reshape(samples, width)
            distances[first : first + samples, index] = measure_distances(expected, found, statistics[index])
    scale = _estimate_scales(distances, block_length, rows)
    # A constant feature never strays: its scale and threshold are zero, and any other value is a difference.
    relative = np.divide(distances, scale, out=np.zeros_like(distances), where=scale > 0)
    limit = np.quantile(relative.max(axis=1), 1 - target_rate)
    return np.asarray(limit * scale)


def measure_distances(
    expected: NDArray[np.int64], found: NDArray[np.int64], statistic: Statistic
) -> NDArray[np.float64]:
    """`core.bins.measure_distance` of each of `found (samples, bins)` from `expected (bins,)`, `(samples,)`."""
    rows, size = expected.sum(), found[0].sum()
    if statistic == "total_variation":
        return np.asarray(np.abs(found / size - expected / rows).sum(axis=1) / 2)
    gaps = np.cumsum(found, axis=1) / size - np.cumsum(expected) / rows
    ridits = build_ridits(expected)
    parts = [np.abs(gaps).max(axis=1), RANKS_A_SD * np.abs(found @ ridits / size - 0.5)]
    if statistic == "ks_location_spread":
        from_middle = np.abs(ridits - 0.5)
        parts.append(SPREADS_A_SD * np.abs(found @ from_middle / size - expected @ from_middle / rows))
    return np.asarray(np.max(parts, axis=0))
