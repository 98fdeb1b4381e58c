"""The reference of a model version: what its training data looked like, and how far a fair window strays from it.

Training builds it once from the monitored features of the training rows and stores it as `reference.json` inside the
version; serving counts values into its bins; monitoring compares those counts with it. Rows do not leave training.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from core.bins import RANKS_A_SD, build_edges, build_ridits, count_in_bins, find_bins
from core.errors import ReferenceRejected

WINDOW_SIZES = (50, 100, 200, 500, 1000, 2000, 5000)
RESAMPLES = 1000
RESAMPLED_VALUES = 2_000_000


class ReferenceFeature(BaseModel):
    """One monitored feature: bins, counts and moments of its training values, and its alarm thresholds.

    `thresholds[i]` is the distance (`core.bins.measure_distance`) above which a window of
    `Reference.window_sizes[i]` rows is taken to differ. `sd` is the population's (divided by rows); all numbers are in
    `unit`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    rows: int
    mean: float
    sd: float
    minimum: float
    maximum: float
    thresholds: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} counts, not {len(self.counts)}")
        if len(self.edges) < 2 or any(left >= right for left, right in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must be at least two and strictly increasing")
        if self.rows <= 0 or sum(self.counts) != self.rows or min(self.counts) < 0:
            raise ValueError("counts must not be negative and must add up to rows, of which there must be some")
        return self

    @cached_property
    def edge_array(self) -> NDArray[np.float64]:
        """The edges, shape `(bins - 1,)`."""
        return np.array(self.edges, dtype=np.float64)

    @cached_property
    def count_array(self) -> NDArray[np.int64]:
        """The training counts, shape `(bins,)`."""
        return np.array(self.counts, dtype=np.int64)


class Reference(BaseModel):
    """The monitored features of one version, with thresholds calibrated together.

    `target_rate` is the share of checks on unchanged data that may raise an alarm, over all features together.
    `block_length` is the length, in rows, of the blocks that the calibration drew; `seed` makes it repeatable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    features: tuple[ReferenceFeature, ...]
    block_length: int
    target_rate: float
    window_sizes: tuple[int, ...]
    seed: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.features or not self.window_sizes:
            raise ValueError("there must be at least one feature and one window size")
        if any(len(feature.thresholds) != len(self.window_sizes) for feature in self.features):
            raise ValueError("each feature must have one threshold per window size")
        if any(left >= right for left, right in zip(self.window_sizes, self.window_sizes[1:], strict=False)):
            raise ValueError("window sizes must be strictly increasing")
        if len(set(self.names)) != len(self.names):
            raise ValueError("feature names must differ")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The monitored features' names, in the order of the columns that were counted."""
        return tuple(feature.name for feature in self.features)

    @property
    def minimum_rows(self) -> int:
        """The smallest window that can be judged."""
        return self.window_sizes[0]

    def to_json(self) -> str:
        """The text of `reference.json`."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Reference":
        """Reads `reference.json`.

        Raises:
            ReferenceRejected: the text is not a reference.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as fault:
            first = fault.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ReferenceRejected(f"{place}: {first['msg']}") from fault


def build_reference(
    values: NDArray[np.floating],
    names: Sequence[str],
    units: Sequence[str],
    *,
    target_rate: float = 0.04,
    seed: int = 0,
    window_sizes: Sequence[int] = WINDOW_SIZES,
) -> Reference:
    """Bins, moments and calibrated thresholds of `values (rows, features)`, the rows in order of time.

    Thresholds come from samples of each window's own size, drawn from the rows by a circular block bootstrap (Politis
    and Romano 1992): blocks of consecutive rows, so that a sample is as autocorrelated as a served window, and whole
    rows, so that features stay as correlated as they are. Each feature's distance is measured in units of how far it
    strays by itself before the largest is taken: a strongly autocorrelated feature then does not hide a shift of the
    others. The threshold is the quantile at `1 - target_rate` of the largest, back in each feature's own
    measure, times sqrt(1 + window / rows) because the reference is itself a sample, and widened by what cutting a
    stream into blocks takes from its variance.

    Window sizes above the number of rows are left out.

    Raises:
        ReferenceRejected: a value is not finite in float32, the shapes disagree, or there are fewer rows than the
            smallest window.
    """
    with np.errstate(over="ignore"):
        rounded = np.asarray(values, dtype=np.float32)
    _check_values(rounded, names, units, target_rate, min(window_sizes))
    rows = len(rounded)
    sizes = tuple(sorted({size for size in window_sizes if size <= rows}))
    edges = [build_edges(column) for column in rounded.T]
    bins = [find_bins(edge, column) for edge, column in zip(edges, rounded.T, strict=True)]
    counts = [np.bincount(column, minlength=len(edge) + 1) for column, edge in zip(bins, edges, strict=True)]
    dependences = np.array([measure_dependence(column) for column in rounded.T])
    block_length = choose_block_length(rows, float(dependences.max()))
    rng = np.random.default_rng(seed)
    thresholds = np.array(
        [
            _calibrate(bins, counts, size, block_length, target_rate, rng)
            * _correct_for_blocks(dependences, block_length, size)
            * np.sqrt(1 + size / rows)
            for size in sizes
        ]
    )
    features = []
    for index, column in enumerate(rounded.T.astype(np.float64)):
        features.append(
            ReferenceFeature(
                name=names[index],
                unit=units[index],
                edges=tuple(edges[index].tolist()),
                counts=tuple(counts[index].tolist()),
                rows=rows,
                mean=float(column.mean()),
                sd=float(column.std()) if column.min() < column.max() else 0.0,
                minimum=float(column.min()),
                maximum=float(column.max()),
                thresholds=tuple(thresholds[:, index].tolist()),
            )
        )
    return Reference(
        features=tuple(features), block_length=block_length, target_rate=target_rate, window_sizes=sizes, seed=seed
    )


def _check_values(
    values: NDArray[np.float32], names: Sequence[str], units: Sequence[str], target_rate: float, smallest: int
) -> None:
    if not 0.0 < target_rate < 1.0:
        raise ReferenceRejected(f"the target rate of false alarms is {target_rate}, it must lie between 0 and 1")
    if values.ndim != 2 or not len(names) == len(units) == values.shape[1] or not names:
        raise ReferenceRejected(
            f"values of shape {values.shape} do not fit {len(names)} names and {len(units)} units, "
            "the shape must be (rows, features)"
        )
    if len(values) < smallest:
        raise ReferenceRejected(f"{len(values)} training rows are too few to calibrate, at least {smallest} are needed")
    faulty = ~np.isfinite(values)
    if faulty.any():
        row, column = (int(index[0]) for index in np.nonzero(faulty))
        raise ReferenceRejected(
            f"{int(faulty.sum())} values are not finite in float32, the first is feature {names[column]!r} at row {row}"
        )


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


def _correct_for_blocks(dependences: NDArray[np.float64], block_length: int, size: int) -> NDArray[np.float64]:
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


def _calibrate(
    bins: Sequence[NDArray[np.int64]],
    counts: Sequence[NDArray[np.int64]],
    size: int,
    block_length: int,
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
            gaps = np.cumsum(found, axis=1) / size - np.cumsum(expected) / rows
            locations = found @ build_ridits(expected) / size - 0.5
            distances[first : first + samples, index] = np.maximum(
                np.abs(gaps).max(axis=1), RANKS_A_SD * np.abs(locations)
            )
    scale = _estimate_scales(distances, block_length, rows)
    # A constant feature never strays: its scale and threshold are zero, and any other value is a difference.
    relative = np.divide(distances, scale, out=np.zeros_like(distances), where=scale > 0)
    limit = np.quantile(relative.max(axis=1), 1 - target_rate)
    return np.asarray(limit * scale)


def bin_index(feature: ReferenceFeature, values: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of each of `values (rows,)`; -1 where a value is not finite. Edges belong to the bin below them."""
    return find_bins(feature.edge_array, values)


def count_bins(reference: Reference, values: NDArray[np.floating]) -> list[NDArray[np.int64]]:
    """Counts per feature of `values (rows, features)`, each of shape `(bins,)`.

    A value that is not finite is in no bin, so that rows minus the sum of counts is how many were missing.

    Raises:
        ReferenceRejected: the columns are not as many as the features.
    """
    if values.ndim != 2 or values.shape[1] != len(reference.features):
        raise ReferenceRejected(
            f"values of shape {values.shape} do not fit its {len(reference.features)} features "
            f"({', '.join(reference.names)})"
        )
    return [
        count_in_bins(feature.edge_array, column) for feature, column in zip(reference.features, values.T, strict=True)
    ]


def find_threshold(reference: Reference, feature: ReferenceFeature, window_rows: int) -> float | None:
    """The distance above which a window of `window_rows` values of `feature` is taken to differ; None if too few rows.

    The distance of two samples of n and m rows shrinks as sqrt(1/n + 1/m); the factor before that is interpolated
    between calibrated sizes over the logarithm of the size, and above the largest size it stays what it is there.
    """
    if window_rows < reference.minimum_rows:
        return None
    sizes = np.array(reference.window_sizes, dtype=np.float64)
    factors = np.array(feature.thresholds) / np.sqrt(1 / sizes + 1 / feature.rows)
    factor = np.interp(np.log(window_rows), np.log(sizes), factors)
    return float(factor * np.sqrt(1 / window_rows + 1 / feature.rows))
