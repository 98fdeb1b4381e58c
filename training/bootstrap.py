"""Bootstrap intervals of means, with moving blocks for series."""

import math

import numpy as np
from numpy.typing import NDArray

SAMPLES = 4_000


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
    starts = generator.integers(0, len(sums), size=(samples, blocks - 1))
    tails = generator.integers(0, len(tail_sums), size=samples)
    means = (sums[starts].sum(axis=1) + tail_sums[tails]) / rows
    edge = (1 - confidence) / 2
    low, high = np.quantile(means, [edge, 1 - edge])
    return float(low), float(high)
