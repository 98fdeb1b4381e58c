"""How far the served values of a window are from the training values of the version that answered them.

Everything is read from bin counts, so that a check costs the same whatever the number of predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from core.bins import measure_distance, measure_total_variation, measure_wasserstein
from core.errors import ReferenceRejected
from core.reference import Reference, ReferenceFeature, find_threshold


@dataclass(frozen=True)
class WindowCounts:
    """What was served within a window, as summed from hourly bin counts.

    Attributes:
        rows: predictions answered.
        counts: per monitored feature the counts in its bins, shape `(bins,)`. Predictions without a finite value of
            the feature are in no bin; a feature that was never counted may be left out.
        refusals: requests refused because they did not fit the contract.
        faults: refused requests, and answered rows without a value or of an unknown category, by column and kind.
        sums: per monitored number how many values, their sum and the sum of their squares, around the training mean
            and in training deviations.
    """

    rows: int
    counts: Mapping[str, NDArray[np.int64]]
    refusals: int = 0
    faults: Mapping[tuple[str, str], int] = field(default_factory=dict)
    sums: Mapping[str, tuple[int, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureDrift:
    """One feature of a window beside its reference.

    Attributes:
        name: the feature.
        rows: values that were counted.
        statistic: distance from the training values (see `core.bins.measure_distance`), 0 to √3; None without values.
        threshold: distance that only `target_rate` of fair windows pass; None if there are too few values to say.
        effect: Wasserstein-1 distance in standard deviations of the training values, of categories the share of rows
            that moved to another; None without values.
        is_drifted: the statistic is above its threshold and the effect is at least the smallest that matters.
        is_open: the same at the lower level below which a drift that was found counts as over.
        role: whether it is a monitored feature or what the model answered.
        mean, sd: of the window's values; None of categories, and where no sums were kept.
        usual_mean, usual_sd: those of the training values.
    """

    name: str
    rows: int
    statistic: float | None
    threshold: float | None
    effect: float | None
    is_drifted: bool
    is_open: bool = False
    role: Literal["feature", "prediction"] = "feature"
    is_category: bool = False
    mean: float | None = None
    sd: float | None = None
    usual_mean: float | None = None
    usual_sd: float | None = None

    @property
    def ratio(self) -> float:
        """The statistic in units of its threshold; 0 where there is none, 2 where the threshold is zero and passed."""
        if self.statistic is None or self.threshold is None:
            return 0.0
        if self.threshold == 0.0:
            return 2.0 if self.statistic > 0 else 0.0
        return self.statistic / self.threshold


@dataclass(frozen=True)
class DriftMeasure:
    """All monitored features of one window, in the reference's order.

    Attributes:
        rows: predictions answered within the window.
        refusals: requests refused within the window.
        features: one entry per monitored feature.
        missing: features without enough values to be judged although the window has enough rows: a data incident.
        is_conclusive: the window has enough rows for the calibrated test.
        fault: why nothing can be compared, where the version has no reference.
    """

    rows: int
    refusals: int
    features: tuple[FeatureDrift, ...]
    missing: tuple[str, ...]
    is_conclusive: bool
    fault: str = ""

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """The features that drifted, the largest effect first."""
        found = [feature for feature in self.features if feature.is_drifted]
        return tuple(sorted(found, key=lambda feature: -(feature.effect or 0.0)))

    @property
    def is_drifted(self) -> bool:
        """At least one feature drifted; never so for a window that is too small."""
        return any(feature.is_drifted for feature in self.features)


def measure_drift(
    reference: Reference,
    window: WindowCounts,
    minimum_effect: float,
    *,
    minimum_share: float = 0.05,
    clear_share: float = 0.8,
) -> DriftMeasure:
    """Compares the window's counts with the reference, feature by feature.

    The thresholds bound the false alarms of all features together, so no further correction is made. `minimum_effect`
    is in standard deviations, of categories `minimum_share` of the rows; at `clear_share` of either, and of the
    threshold, a drift that was found is over (see `core.policies.DriftPolicy`).

    Raises:
        ReferenceRejected: the window was counted with other bins or features than the reference has.
    """
    unknown = sorted(set(window.counts) - set(reference.names))
    if unknown:
        raise ReferenceRejected(f"the window counts features that it does not know: {', '.join(map(repr, unknown))}")
    features = tuple(
        _measure_feature(
            reference, feature, window, minimum_share if feature.is_category else minimum_effect, clear_share
        )
        for feature in reference.features
    )
    is_conclusive = window.rows >= reference.minimum_rows
    return DriftMeasure(
        rows=window.rows,
        refusals=window.refusals,
        features=features,
        missing=tuple(feature.name for feature in features if is_conclusive and feature.threshold is None),
        is_conclusive=is_conclusive,
    )


def read_measure(document: Mapping[str, object]) -> DriftMeasure:
    """The measure that a finding holds, as it was before it was stored."""
    known = {name: document[name] for name in DriftMeasure.__dataclass_fields__ if name in document}
    features = cast(Sequence[Mapping[str, Any]], known["features"])
    missing = cast(Sequence[str], known["missing"])
    rest = {
        "features": tuple(FeatureDrift(**feature) for feature in features),
        "missing": tuple(missing),
    }
    return DriftMeasure(**cast(dict[str, Any], {**known, **rest}))


def build_unmeasured(window: WindowCounts, fault: str) -> DriftMeasure:
    """The measure of a version that cannot be compared with anything."""
    return DriftMeasure(window.rows, window.refusals, (), (), is_conclusive=False, fault=fault)


def _measure_feature(
    reference: Reference, feature: ReferenceFeature, window: WindowCounts, smallest: float, clear_share: float
) -> FeatureDrift:
    counts = window.counts.get(feature.name)
    if counts is None or not np.any(counts):
        return FeatureDrift(feature.name, 0, None, None, None, False, role=feature.role)
    if counts.shape != feature.count_array.shape:
        raise ReferenceRejected(
            f"feature {feature.name!r} has {len(feature.counts)} bins, the window was counted in {counts.size}"
        )
    rows = int(counts.sum())
    statistic = measure_distance(feature.count_array, counts, feature.statistic)
    threshold = find_threshold(reference, feature, rows)
    if feature.is_category:
        effect = measure_total_variation(feature.count_array, counts)
    else:
        effect = measure_effect(feature, counts)
    mean, sd = _find_moments(feature, window)
    return FeatureDrift(
        feature.name,
        rows,
        statistic,
        threshold,
        effect,
        is_drifted=threshold is not None and statistic > threshold and effect >= smallest,
        is_open=threshold is not None and statistic > clear_share * threshold and effect >= clear_share * smallest,
        role=feature.role,
        is_category=feature.is_category,
        mean=mean,
        sd=sd,
        usual_mean=None if feature.is_category else feature.mean,
        usual_sd=None if feature.is_category else feature.sd,
    )


def _find_moments(feature: ReferenceFeature, window: WindowCounts) -> tuple[float | None, float | None]:
    """Mean and deviation of the window's values, in the feature's unit."""
    values, total, squares = window.sums.get(feature.name, (0, 0.0, 0.0))
    if not values or feature.is_category:
        return None, None
    scale = feature.sd or 1.0
    strayed = total / values
    return feature.mean + scale * strayed, scale * float(np.sqrt(max(squares / values - strayed**2, 0.0)))


def measure_effect(feature: ReferenceFeature, counts: NDArray[np.int64]) -> float:
    """Wasserstein-1 distance of `counts (bins,)` from the training values, in their standard deviations.

    A value outside the range of training counts as one standard deviation outside it, since counts do not tell how
    far it is. For a feature that was constant in training the effect is the share of values that differ from it.
    """
    scale = feature.sd if feature.sd > 0 else 1.0
    edges = (feature.edge_array - feature.mean) / scale
    return measure_wasserstein(edges, feature.count_array, counts, beyond=1.0)
