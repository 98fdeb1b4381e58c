"""Bootstrap intervals of means and of metrics, with moving blocks for series."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

SAMPLES = 4_000
METRIC_SAMPLES = 300
_DRAWN_AT_ONCE = 1_000_000


def choose_row_blocks(times: NDArray[np.datetime64] | None) -> int:
    """How many neighbouring rows, ordered by `times` `(rows,)`, are drawn together.

    Where many entities share a time, a block holds all of them; rows without time are drawn one by one.
    """
    if times is None or not len(times):
        return 1
    distinct = len(np.unique(times))
    return choose_block_length(distinct) * -(-len(times) // distinct)


def choose_block_length(rows: int) -> int:
    """n^(1/3), the order of the optimal block length for the variance of a mean.

    Source: Künsch, "The jackknife and the bootstrap for general stationary observations", 1989; Hall, Horowitz and
    Jing, "On blocking rules for the bootstrap with dependent data", 1995.
    """
    return max(1, round(math.cbrt(rows)))


def bootstrap_mean_interval(
    values: NDArray[np.float64], *, confidence: float, block_length: int, seed: int, samples: int = SAMPLES
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` `(rows,)`, resampled in moving blocks of `block_length` rows.

    With `block_length=1` it is the ordinary bootstrap for independent rows.
    """
    rows = len(values)
    length = min(block_length, rows)
    blocks = -(-rows // length)
    # The mean of a block is all that a resampled mean needs; the last block is cut so that every sample has `rows`.
    sums = np.convolve(values, np.ones(length), mode="valid")
    tail = rows - (blocks - 1) * length
    tail_sums = np.convolve(values, np.ones(tail), mode="valid")
    generator = np.random.default_rng(seed)
    tails = generator.integers(0, len(tail_sums), size=samples)
    totals = tail_sums[tails]
    # So many samples at a time that their blocks take some ten megabytes, however many rows there are.
    step = max(1, _DRAWN_AT_ONCE // max(1, blocks - 1))
    for first in range(0, samples, step):
        chosen = slice(first, min(first + step, samples))
        starts = generator.integers(0, len(sums), size=(chosen.stop - chosen.start, blocks - 1))
        totals[chosen] += sums[starts].sum(axis=1)
    means = totals / rows
    edge = (1 - confidence) / 2
    low, high = np.quantile(means, [edge, 1 - edge])
    return float(low), float(high)


def bootstrap_metric_intervals(
    measure: Callable[[NDArray[np.int64]], Mapping[str, float]],
    rows: int,
    *,
    confidence: float,
    block_length: int,
    seed: int,
    samples: int = METRIC_SAMPLES,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of metrics that are no means, by name, resampled in moving blocks of `block_length` rows.

    `measure` takes row numbers `(rows,)` and answers the metrics of those rows. One that fewer than half of the
    samples define is left out. Source: Künsch, 1989, as above.
    """
    length = min(block_length, rows)
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(samples):
        starts = generator.integers(0, rows - length + 1, size=-(-rows // length))
        drawn = (starts[:, None] + np.arange(length)).ravel()[:rows]
        for name, value in measure(drawn).items():
            found.setdefault(name, []).append(value)
    edge = (1 - confidence) / 2
    intervals = {}
    for name, values in found.items():
        if 2 * len(values) >= samples:
            low, high = np.quantile(values, [edge, 1 - edge])
            intervals[name] = (float(low), float(high))
    return intervals
