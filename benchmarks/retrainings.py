"""How often a year hourly checks retrain a model whose data never changed.

Windows of a week that are looked at every hour share nearly all of their rows, and all of them are compared with the
same reference: alarms come in spells. Simulated with the very policy, on streams of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from core.calibration import measure_distances
from core.policies import DriftPolicy
from core.reference import Reference, bin_index, build_reference, find_threshold
from monitoring.drift import DriftMeasure, FeatureDrift, measure_effect
from monitoring.policy import PastCheck, decide

FloatArray = NDArray[np.float64]

COLUMNS, REFERENCE_ROWS = 10, 10_000
ROWS_AN_HOUR = 6
HOURS_A_YEAR = 365 * 24
NAMES = [f"column {number}" for number in range(1, COLUMNS + 1)]
POLICY = DriftPolicy()
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Simulated:
    """Years of hourly checks: how many there were, and what they did."""

    factor: float
    years: int
    alarms: int
    spells: int
    retrainings: int

    @property
    def sentence(self) -> str:
        return (
            f"factor {self.factor}: {self.retrainings / self.years:.1f} simulated with windows of "
            f"{POLICY.window_h:g} hours ({self.years} years of {ROWS_AN_HOUR} rows an hour); "
            f"{self.alarms / self.years / HOURS_A_YEAR:.1%} of the checks found drift, in "
            f"{self.spells / self.years:.1f} spells a year"
        )


def compute_retrainings(rate: float) -> float:
    """Expected retrainings a year where every hour's check alarms at `rate` by itself, without a cooldown.

    A retraining starts at a check that alarms and has one alarm in the two before it; both count anew afterwards.
    """
    # States: alarms at the two last checks, none of them before the last retraining.
    states = [(0, 0), (0, 1), (1, 0)]
    moves = np.zeros((3, 3))
    starts = np.zeros(3)
    for at, (older, newer) in enumerate(states):
        moves[at, states.index((newer, 0))] += 1 - rate
        if older or newer:
            starts[at] = rate
            moves[at, 0] += rate
        else:
            moves[at, states.index((newer, 1))] += rate
    return float(np.linalg.matrix_power(moves, 10_000)[0] @ starts) * HOURS_A_YEAR


def simulate_retrainings(factor: float, years: int) -> Simulated:
    """Check `years` years hour by hour, each with a reference and a stream of its own."""
    alarms = spells = retrainings = 0
    for year in range(years):
        generator = np.random.default_rng([round(factor * 10), year, 7])
        training = _make_stream(generator, REFERENCE_ROWS, factor)
        reference = build_reference(training, NAMES, [""] * COLUMNS, seed=year, window_sizes=(1000, 2000))
        hours = HOURS_A_YEAR + int(POLICY.window_h)
        drifts = measure_hours(reference, _make_stream(generator, hours * ROWS_AN_HOUR, factor))
        is_drifted: NDArray[np.bool_] = np.asarray(drifts.any(axis=1), dtype=np.bool_).reshape(-1)
        alarms += int(is_drifted.sum())
        spells += int(is_drifted[0]) + int((is_drifted[1:] & ~is_drifted[:-1]).sum())
        retrainings += count_retrainings(is_drifted)
    return Simulated(factor, years, alarms, spells, retrainings)


def measure_hours(reference: Reference, rows: FloatArray) -> NDArray[np.bool_]:
    """Whether each column drifted at each hour whose window is whole, `(hours, columns)`.

    As `monitoring.drift.measure_drift` says of each window; all hours of a column at once.
    """
    size = int(POLICY.window_h) * ROWS_AN_HOUR
    hour = np.arange(len(rows)) // ROWS_AN_HOUR
    found = []
    for feature, column in zip(reference.features, rows.T, strict=True):
        width = len(feature.counts)
        flat = np.bincount(hour * width + bin_index(feature, column), minlength=(hour[-1] + 1) * width)
        summed = np.vstack([np.zeros((1, width), dtype=np.int64), np.cumsum(flat.reshape(-1, width), axis=0)])
        windows = summed[int(POLICY.window_h) :] - summed[: -int(POLICY.window_h)]
        threshold = find_threshold(reference, feature, size)
        is_far = measure_distances(feature.count_array, windows, feature.statistic) > (threshold or 0.0)
        for at in np.flatnonzero(is_far):
            is_far[at] = measure_effect(feature, windows[at]) >= POLICY.minimum_effect
        found.append(is_far)
    return np.column_stack(found)


def count_retrainings(is_drifted: Sequence[bool] | NDArray[np.bool_]) -> int:
    """How many retrainings the policy starts in hourly checks that found drift or did not."""
    history: list[PastCheck] = []
    started = 0
    kept = int(2 * POLICY.window_h)
    for hour, drifted in enumerate(is_drifted):
        now = BEGIN + timedelta(hours=hour)
        served = (hour + int(POLICY.window_h)) * ROWS_AN_HOUR
        if not drifted:
            history.append(PastCheck(now, False, "fine", served))
        else:
            feature = FeatureDrift("column", 1000, 0.2, 0.1, 0.5, True, is_open=True)
            measure = DriftMeasure(1000, 0, (feature,), (), True)
            decision = decide(history[-kept:], measure, POLICY, now, served=served)
            started += decision.outcome == "retrain"
            history.append(PastCheck(now, decision.speaks, decision.outcome, served))
    return started


def _make_stream(generator: np.random.Generator, rows: int, factor: float) -> FloatArray:
    noise = generator.normal(size=(rows + 200, COLUMNS)) * np.sqrt(1 - factor**2)
    return np.asarray(signal.lfilter([1], [1, -factor], noise, axis=0)[200:])
