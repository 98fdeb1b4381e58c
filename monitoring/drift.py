"""How far the served values of a window are from the training values of the version that answered them.

Everything is read from bin counts, so that a check costs the same whatever the number of predictions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.bins import measure_distance, measure_wasserstein
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
    """

    rows: int
    counts: Mapping[str, NDArray[np.int64]]
    refusals: int = 0


@dataclass(frozen=True)
class FeatureDrift:
    """One feature of a window beside its reference.

    Attributes:
        name: the feature.
        rows: values that were counted.
        statistic: distance from the training values, the larger of Kolmogorov-Smirnov's and the location's (see
            `core.bins.measure_distance`), 0 to √3; None without values.
        threshold: distance that only `target_rate` of fair windows pass; None if there are too few values to say.
        effect: Wasserstein-1 distance in standard deviations of the training values; None without values.
        is_drifted: the statistic is above its threshold and the effect is at least the smallest that matters.
    """

    name: str
    rows: int
    statistic: float | None
    threshold: float | None
    effect: float | None
    is_drifted: bool


@dataclass(frozen=True)
class DriftMeasure:
    """All monitored features of one window, in the reference's order.

    Attributes:
        rows: predictions answered within the window.
        refusals: requests refused within the window.
        features: one entry per monitored feature.
        missing: features without enough values to be judged although the window has enough rows: a data incident.
        is_conclusive: the window has enough rows for the calibrated test.
    """

    rows: int
    refusals: int
    features: tuple[FeatureDrift, ...]
    missing: tuple[str, ...]
    is_conclusive: bool

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """The features that drifted, the largest effect first."""
        found = [feature for feature in self.features if feature.is_drifted]
        return tuple(sorted(found, key=lambda feature: -(feature.effect or 0.0)))

    @property
    def is_drifted(self) -> bool:
        """At least one feature drifted; never so for a window that is too small."""
        return any(feature.is_drifted for feature in self.features)


def measure_drift(reference: Reference, window: WindowCounts, minimum_effect: float) -> DriftMeasure:
    """Compares the window's counts with the reference, feature by feature.

    The thresholds bound the false alarms of all features together, so no further correction is made. `minimum_effect`
    is in standard deviations.

    Raises:
        ReferenceRejected: the window was counted with other bins or features than the reference has.
    """
    unknown = sorted(set(window.counts) - set(reference.names))
    if unknown:
        raise ReferenceRejected(f"the window counts features that it does not know: {', '.join(map(repr, unknown))}")
    features = tuple(
        _measure_feature(reference, feature, window.counts.get(feature.name), minimum_effect)
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


def _measure_feature(
    reference: Reference, feature: ReferenceFeature, counts: NDArray[np.int64] | None, minimum_effect: float
) -> FeatureDrift:
    if counts is None or not np.any(counts):
        return FeatureDrift(feature.name, 0, None, None, None, False)
    if counts.shape != feature.count_array.shape:
        raise ReferenceRejected(
            f"feature {feature.name!r} has {len(feature.counts)} bins, the window was counted in {counts.size}"
        )
    rows = int(counts.sum())
    statistic = measure_distance(feature.count_array, counts)
    threshold = find_threshold(reference, feature, rows)
    effect = measure_effect(feature, counts)
    is_drifted = threshold is not None and statistic > threshold and effect >= minimum_effect
    return FeatureDrift(feature.name, rows, statistic, threshold, effect, is_drifted)


def measure_effect(feature: ReferenceFeature, counts: NDArray[np.int64]) -> float:
    """Wasserstein-1 distance of `counts (bins,)` from the training values, in their standard deviations.

    A value outside the range of training counts as one standard deviation outside it, since counts do not tell how
    far it is. For a feature that was constant in training the effect is the share of values that differ from it.
    """
    scale = feature.sd if feature.sd > 0 else 1.0
    edges = (feature.edge_array - feature.mean) / scale
    return measure_wasserstein(edges, feature.count_array, counts, beyond=1.0)
