"""Quantile bins of one feature: where they lie, what falls into them, and how far two sets of counts are apart.

The bins are fixed by the training data of a version; served values are only ever counted into them, so that hours,
processes and partitions add up and a check costs the same at a thousand rows as at a billion.

Bin `i` holds `edges[i - 1] < value <= edges[i]`. The first bin holds what lies below the smallest training value and
the last what lies above the largest: both are empty in training. Values are rounded to float32 on both sides, because
that is what a served model reads; a constant such as 0.1 would otherwise differ from itself.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Statistic = Literal["ks_location", "ks_location_spread", "total_variation"]
"""How two sets of counts are told apart: numbers by ranks, categories by shares. `ks_location` is that of versions from
before deviations were judged."""

QUANTILES = 99
RANKS_A_SD = 12.0**0.5
"""One over the standard deviation of a rank share, which is uniform on 0 to 1."""
SPREADS_A_SD = 48.0**0.5
"""One over the standard deviation of a rank share's distance from the middle, which is uniform on 0 to a half."""


def build_edges(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Edges at 99 evenly spaced quantiles of `values (rows,)`, the smallest and largest value among them.

    A value that several quantiles share (a tie: a constant, a code, many zeros) gets an edge just below it too, so
    that it has a bin of its own. There are at least 2 and at most 99 edges, strictly increasing.
    """
    rounded = np.asarray(values, dtype=np.float32)
    quantiles = np.quantile(rounded, np.linspace(0.0, 1.0, QUANTILES), method="inverted_cdf")
    distinct, repeats = np.unique(quantiles, return_counts=True)
    below = np.concatenate([distinct[:1], distinct[repeats > 1]])
    # The smallest value itself is an edge only where it is a tie; otherwise its bin begins just below it.
    inner = distinct if repeats[0] > 1 else distinct[1:]
    edges = np.concatenate([np.nextafter(below, np.float32(-np.inf)), inner])
    return np.unique(edges).astype(np.float64)


def build_category_edges(codes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Edges for codes of categories `(rows,)`, of which 0 is an absent or unknown one and has a bin of its own.

    A category with at least two of a hundred rows has a bin of its own too; rarer ones share one with those beside
    them, so that no bin is too thin to say anything.
    """
    return np.unique(np.concatenate([[-0.5, 0.5], build_edges(codes)]))


def find_bins(edges: NDArray[np.float64], values: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of each of `values (rows,)`, 0 to len(edges); -1 for a value that is not finite and has none.

    `searchsorted(side="left")`: a value equal to an edge belongs to the bin that ends there.
    """
    with np.errstate(over="ignore"):
        rounded = np.asarray(values, dtype=np.float32)
    bins = np.searchsorted(edges, rounded, side="left").astype(np.int64)
    bins[~np.isfinite(rounded)] = -1
    return bins


def count_in_bins(edges: NDArray[np.float64], values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Counts of `values (rows,)` per bin, shape `(len(edges) + 1,)`; values that are not finite are left out."""
    bins = find_bins(edges, values)
    return np.bincount(bins[bins >= 0], minlength=len(edges) + 1).astype(np.int64)


def measure_ks(reference_counts: NDArray[np.int64], window_counts: NDArray[np.int64]) -> float:
    """The Kolmogorov-Smirnov distance of two samples known by their counts in the same bins, 0 to 1.

    The largest difference of the two cumulative shares, read at the edges. Both counts must have a total above zero.
    """
    reference = np.cumsum(reference_counts) / np.sum(reference_counts)
    window = np.cumsum(window_counts) / np.sum(window_counts)
    return float(np.max(np.abs(reference - window)))


def build_ridits(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean rank share of each bin's values, `(bins,)`: the share below the bin and half of the bin's own.

    Source: Bross, "How to use ridit analysis", 1958.
    """
    return np.asarray((np.cumsum(counts) - counts / 2) / np.sum(counts))


def measure_location(reference_counts: NDArray[np.int64], window_counts: NDArray[np.int64]) -> float:
    """How far the window's mean rank among the reference's values lies from the middle, in standard deviations of a
    rank: 0 for the same location, √3 where every value lies on one side.

    The statistic of Mann and Whitney's test, from counts. Both counts must have a total above zero.
    """
    mean = float(np.dot(build_ridits(reference_counts), window_counts) / np.sum(window_counts))
    return RANKS_A_SD * abs(mean - 0.5)


def measure_spread(reference_counts: NDArray[np.int64], window_counts: NDArray[np.int64]) -> float:
    """How much further from the middle rank, or nearer to it, the window's values lie than the reference's, in standard
    deviations of such a distance: 0 for the same deviation.

    The statistic of Ansari and Bradley's test (1960), from counts. Both counts must have a total above zero.
    """
    distances = np.abs(build_ridits(reference_counts) - 0.5)
    window = float(np.dot(distances, window_counts) / np.sum(window_counts))
    return SPREADS_A_SD * abs(window - float(np.dot(distances, reference_counts) / np.sum(reference_counts)))


def measure_total_variation(reference_counts: NDArray[np.int64], window_counts: NDArray[np.int64]) -> float:
    """The share of values that would have to move to another bin for both samples to be alike, 0 to 1."""
    reference = reference_counts / np.sum(reference_counts)
    return float(np.sum(np.abs(reference - window_counts / np.sum(window_counts))) / 2)


def measure_distance(
    reference_counts: NDArray[np.int64],
    window_counts: NDArray[np.int64],
    statistic: Statistic = "ks_location_spread",
) -> float:
    """The distance that a drift check judges.

    Of numbers the largest of the Kolmogorov-Smirnov distance, the location's and the spread's: the first sees a change
    of any form; the others see a shift and a change of deviation sooner, the more so in autocorrelated streams. Of
    categories the total variation distance.
    """
    if statistic == "total_variation":
        return measure_total_variation(reference_counts, window_counts)
    distance = max(measure_ks(reference_counts, window_counts), measure_location(reference_counts, window_counts))
    if statistic == "ks_location":
        return distance
    return max(distance, measure_spread(reference_counts, window_counts))


def measure_wasserstein(
    edges: NDArray[np.float64],
    reference_counts: NDArray[np.int64],
    window_counts: NDArray[np.int64],
    *,
    beyond: float,
) -> float:
    """The Wasserstein-1 distance of two samples known by their counts in the same bins, in the unit of `edges`.

    The area between the two cumulative shares, taken as straight lines between edges (values spread evenly within a
    bin). How far a value lies outside the first or last edge is not known from counts: it counts as `beyond` away.
    """
    gap = (np.cumsum(reference_counts) / np.sum(reference_counts))[:-1]
    gap = gap - (np.cumsum(window_counts) / np.sum(window_counts))[:-1]
    left, right = gap[:-1], gap[1:]
    size = np.abs(left) + np.abs(right)
    # Where the lines cross inside a bin the area is two triangles instead of a trapezium.
    crossing = np.divide(left**2 + right**2, size, out=np.zeros_like(size), where=size > 0)
    height = np.where(left * right < 0, crossing, size) / 2
    inside = float(np.sum(height * np.diff(edges)))
    return inside + beyond * float(np.abs(gap[0]) + np.abs(gap[-1]))
