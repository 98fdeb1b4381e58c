"""Calibration of a classifier: whether what it calls likely comes as often as it says."""

from dataclasses import dataclass

import numpy as np

from training.parts import FloatArray

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose probability lies from `low` to `high`: how many, their mean, and the share that came."""

    low: float
    high: float
    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """The reliability curve, the Brier score, and the expected calibration error: the mean distance of the bins, each
    by its share of the rows, between what was said and what came."""

    bins: tuple[ReliabilityBin, ...]
    brier: float
    expected_error: float


def measure_calibration(targets: FloatArray, predictions: FloatArray) -> Calibration:
    """The calibration of probabilities `(rows, outputs)`, in ten bins of equal width; empty ones are left out.

    With two classes it is the probability of the second; with more, that of the class which is called most likely.
    Source: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", 2017; Brier, "Verification of
    forecasts expressed in terms of probability", 1950.
    """
    if predictions.shape[1] == 1:
        said, came = predictions[:, 0], targets[:, 0]
    else:
        called = predictions.argmax(axis=1)
        said = predictions.max(axis=1)
        came = (targets.argmax(axis=1) == called).astype(np.float64)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    places = np.clip(np.digitize(said, edges[1:-1]), 0, BINS - 1)
    bins = []
    error = 0.0
    for place in range(BINS):
        chosen = places == place
        if not chosen.any():
            continue
        predicted, observed = float(said[chosen].mean()), float(came[chosen].mean())
        error += float(chosen.mean()) * abs(predicted - observed)
        low, high = float(edges[place]), float(edges[place + 1])
        bins.append(ReliabilityBin(low, high, int(chosen.sum()), predicted, observed))
    brier = float(np.square(predictions - targets).sum(axis=1).mean())
    return Calibration(tuple(bins), brier, error)
