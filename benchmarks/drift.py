"""How often a drift check cries wolf, and what it finds: simulated checks beside Evidently's defaults.

Every check draws a reference of 10,000 rows and a window of 1,000 rows of 10 columns afresh: independent rows, and
AR(1) streams with factors 0.5 and 0.9. False alarms are given as the upper limit of Clopper and Pearson's 95 %
interval. Seeds are fixed; `--checks` makes it shorter.
"""

import argparse
import os
import time
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import signal, stats

from core.bins import measure_ks
from core.reference import build_reference, count_bins
from monitoring.drift import WindowCounts, measure_drift

REFERENCE_ROWS, WINDOW_ROWS, COLUMNS = 10_000, 1_000, 10
MINIMUM_EFFECT = 0.1
SHIFTS = {0.0: 0.2, 0.5: 0.3, 0.9: 0.5}
EVIDENTLY_CHECKS = 40
CHECKED_ROWS = 10_000_000
NAMES = [f"column {number}" for number in range(1, COLUMNS + 1)]
CHECKS_A_YEAR = 365 * 24

FloatArray = NDArray[np.float64]


def make_stream(generator: np.random.Generator, rows: int, factor: float) -> FloatArray:
    """AR(1) streams `(rows, columns)` of unit variance."""
    noise = generator.normal(size=(rows + 200, COLUMNS)) * np.sqrt(1 - factor**2)
    return np.asarray(signal.lfilter([1], [1, -factor], noise, axis=0)[200:])


def find_upper_limit(alarms: int, checks: int) -> float:
    """The upper limit of Clopper and Pearson's interval at 95 %, one-sided."""
    return 1.0 if alarms == checks else float(stats.beta.ppf(0.95, alarms + 1, checks - alarms))


def check_ours(reference_rows: FloatArray, windows: list[FloatArray], seed: int) -> list[bool]:
    """Whether each window `(rows, columns)` is called drifted, by counts as in production."""
    reference = build_reference(reference_rows, NAMES, [""] * COLUMNS, seed=seed, window_sizes=(WINDOW_ROWS,))
    found = []
    for window in windows:
        counts = dict(zip(NAMES, count_bins(reference, window), strict=True))
        found.append(measure_drift(reference, WindowCounts(len(window), counts), MINIMUM_EFFECT).is_drifted)
    return found


def measure_rates(factor: float, checks: int) -> tuple[int, int]:
    """False alarms, and shifts of one column that were found, of `checks`."""
    alarms = found = 0
    for check in range(checks):
        generator = np.random.default_rng([round(factor * 10), check])
        reference_rows = make_stream(generator, REFERENCE_ROWS, factor)
        window = make_stream(generator, WINDOW_ROWS, factor)
        shifted = window.copy()
        shifted[:, check % COLUMNS] += SHIFTS[factor]
        fair, drifted = check_ours(reference_rows, [window, shifted], check)
        alarms += fair
        found += drifted
    print(
        f"factor {factor}: {alarms} false alarms in {checks} checks ({alarms / checks:.1%}), a shift of "
        f"{SHIFTS[factor]} standard deviations in one column found {found / checks:.1%} of the time",
        flush=True,
    )
    return alarms, found


def measure_evidently(checks: int) -> int:
    """False alarms of Evidently's defaults on independent rows: a check in which any column is called drifted."""
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import Report
        from evidently.presets import DataDriftPreset

        alarms = 0
        for check in range(checks):
            generator = np.random.default_rng([0, check])
            frames = [pd.DataFrame(make_stream(generator, rows, 0.0), columns=NAMES) for rows in (500, 200)]
            document = Report([DataDriftPreset()]).run(frames[1], frames[0]).dict()
            counted = next(entry for entry in document["metrics"] if "DriftedColumnsCount" in entry["metric_name"])
            alarms += counted["value"]["count"] > 0
    print(f"Evidently's defaults, 500 rows beside 200: {alarms} false alarms in {checks} checks", flush=True)
    return alarms


def measure_large_check() -> tuple[float, float]:
    """Seconds that a check of 10 million rows in 10 columns takes from its counts, and the error of its KS distance."""
    generator = np.random.default_rng(1)
    training = generator.gamma(3.0, size=(REFERENCE_ROWS, COLUMNS))
    reference = build_reference(training, NAMES, [""] * COLUMNS, window_sizes=(WINDOW_ROWS,))
    column = generator.gamma(3.1, size=CHECKED_ROWS).astype(np.float32)
    counted = [np.zeros_like(feature.count_array) for feature in reference.features]
    for piece in np.array_split(column, 100):
        for total, counts in zip(
            counted, count_bins(reference, np.repeat(piece[:, None], COLUMNS, axis=1)), strict=True
        ):
            np.add(total, counts, out=total)
    start = time.perf_counter()
    measure_drift(reference, WindowCounts(CHECKED_ROWS, dict(zip(NAMES, counted, strict=True))), MINIMUM_EFFECT)
    seconds = time.perf_counter() - start
    exact = float(stats.ks_2samp(training[:, 0].astype(np.float32), column).statistic)
    return seconds, abs(measure_ks(reference.features[0].count_array, counted[0]) - exact)


def count_false_retrainings(rate: float) -> tuple[float, float]:
    """Expected runs of 2 of 3 alarms a year at hourly checks with this rate: computed, and simulated.

    Checks are taken as independent here; a cooldown is left out. Computed: a retraining starts at a check that alarms
    and has one alarm in the two before it; both count anew afterwards.
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
    shares = np.linalg.matrix_power(moves, 10_000)[0]
    generator = np.random.default_rng(3)
    years, simulated, recent = 200, 0, [False, False]
    for alarm in generator.random(years * CHECKS_A_YEAR) < rate:
        if alarm and any(recent):
            simulated += 1
            recent = [False, False]
        else:
            recent = [recent[1], bool(alarm)]
    return float(shares @ starts) * CHECKS_A_YEAR, simulated / years


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=1000)
    checks = parser.parse_args().checks
    rates = {factor: measure_rates(factor, checks) for factor in SHIFTS}
    evidently = measure_evidently(min(checks, EVIDENTLY_CHECKS))
    seconds, error = measure_large_check()
    limits = {factor: find_upper_limit(alarms, checks) for factor, (alarms, _) in rates.items()}
    computed, simulated = count_false_retrainings(rates[0.0][0] / checks)
    print(f"False retrainings a year, hourly checks, 2 of 3: {computed:.0f} computed, {simulated:.0f} simulated")
    print(
        f"far_iid={limits[0.0]:.3f} far_ar05={limits[0.5]:.3f} far_ar09={limits[0.9]:.3f} "
        f"power_iid={rates[0.0][1] / checks:.3f} power_ar09={rates[0.9][1] / checks:.3f} "
        f"evidently_far={find_upper_limit(evidently, min(checks, EVIDENTLY_CHECKS)):.3f} "
        f"check_10m_s={seconds:.4f} ks_error={error:.5f}"
    )


if __name__ == "__main__":
    main()
