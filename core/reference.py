"""The reference of a model version: what its training data looked like, and how far a fair window strays from it.

Training builds it once from the monitored features of the training rows and stores it as `reference.json` inside the
version; serving counts values into its bins; monitoring compares those counts with it. Rows do not leave training.
"""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.bins import Statistic, build_category_edges, build_edges, count_in_bins, find_bins
from core.calibration import calibrate, choose_block_length, correct_for_blocks, measure_dependence
from core.errors import ReferenceRejected

WINDOW_SIZES = (50, 100, 200, 500, 1000, 2000, 5000)
QUALITY_SHARE = 0.1
"""Share of the target rate of false alarms that is left to the checks of data quality; drift has the rest."""


class QualityRate(BaseModel):
    """How many training rows had no value of a feature (`imputed`), or a category new to the vocabulary (`unknown`).

    `position` is the feature's in a row of the model's input; `faulty` of `rows` rows were so. `dependence` is how many
    rows that remembers (`core.calibration.measure_dependence`): values go missing in spells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    kind: Literal["imputed", "unknown"]
    position: Annotated[int, Field(ge=0)]
    faulty: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=1)]
    dependence: Annotated[float, Field(ge=0.0)] = 0.0


class ReferenceFeature(BaseModel):
    """One monitored feature, or the prediction: bins, counts and moments in training, and its alarm thresholds.

    `thresholds[i]` is the distance (`core.bins.measure_distance`) above which a window of
    `Reference.window_sizes[i]` rows is taken to differ. `sd` is the population's (divided by rows); all numbers are in
    `unit`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    unit: str
    role: Literal["feature", "prediction"] = "feature"
    statistic: Statistic = "ks_location"
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

    @property
    def is_category(self) -> bool:
        """Whether the values are codes, so that mean and deviation of them mean nothing."""
        return self.statistic == "total_variation"

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

    `target_rate` is the share of checks on unchanged data that may raise an alarm, over all that is checked together.
    `block_length` is the length, in rows, of the blocks that the calibration drew; `seed` makes it repeatable.
    `quality` are the rates that served rows are compared with. `rows_an_hour` is how many training rows came in an
    hour, where they have a time. Versions from before either was kept lack them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    features: tuple[ReferenceFeature, ...]
    block_length: int
    target_rate: float
    window_sizes: tuple[int, ...]
    seed: int
    quality: tuple[QualityRate, ...] = ()
    rows_an_hour: float | None = None

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
        """The names of monitored features and prediction, in the order of the columns that were counted."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def has_prediction(self) -> bool:
        """Whether predictions are counted too."""
        return any(feature.role == "prediction" for feature in self.features)

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
    categories: Collection[str] = (),
    predictions: Collection[str] = (),
    quality: Sequence[QualityRate] = (),
    rows_an_hour: float | None = None,
) -> Reference:
    """Bins, moments and calibrated thresholds of `values (rows, features)`, the rows in order of time.

    `categories` and `predictions` name the features that are codes of categories, and those that the model answered.

    Thresholds come from samples of each window's own size, drawn from the rows by a circular block bootstrap (Politis
    and Romano 1992): blocks of consecutive rows, so that a sample is as autocorrelated as a served window, and whole
    rows, so that features stay as correlated as they are. Each feature's distance is measured in units of how far it
    strays by itself before the largest is taken: a strongly autocorrelated feature then does not hide a shift of the
    others. The threshold is the quantile at `1 - 0.9 * target_rate` of the largest (the checks of data quality have the
    rest), back in each feature's own
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
    edges = [
        build_category_edges(column) if name in categories else build_edges(column)
        for name, column in zip(names, rounded.T, strict=True)
    ]
    statistics: list[Statistic] = ["total_variation" if name in categories else "ks_location_spread" for name in names]
    bins = [find_bins(edge, column) for edge, column in zip(edges, rounded.T, strict=True)]
    counts = [np.bincount(column, minlength=len(edge) + 1) for column, edge in zip(bins, edges, strict=True)]
    dependences = np.array([measure_dependence(column) for column in rounded.T])
    block_length = choose_block_length(rows, float(dependences.max()))
    rng = np.random.default_rng(seed)
    thresholds = np.array(
        [
            calibrate(bins, counts, size, block_length, statistics, (1 - QUALITY_SHARE) * target_rate, rng)
            * correct_for_blocks(dependences, block_length, size)
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
                role="prediction" if names[index] in predictions else "feature",
                statistic=statistics[index],
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
        features=tuple(features),
        block_length=block_length,
        target_rate=target_rate,
        window_sizes=sizes,
        seed=seed,
        quality=tuple(quality),
        rows_an_hour=rows_an_hour,
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
