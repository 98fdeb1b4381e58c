"""How often a check cries wolf, and what it finds: simulated checks beside Evidently's defaults.

Every check draws a reference of 10,000 rows and a window of 1,000 rows of 10 columns afresh: independent rows, and
AR(1) streams with factors 0.5 and 0.9. Beside the columns stand what a version has too: its prediction, a category,
absent values and refused requests. A false alarm is a check whose decision is anything but fine, whichever part of it
spoke. False alarms are given as the upper limit of Clopper and Pearson's 95 % interval. Seeds are fixed; `--checks`
makes it shorter.
"""

import argparse
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import signal, stats

from benchmarks.retrainings import FloatArray, compute_retrainings, simulate_retrainings
from benchmarks.rounds import bench_database, measure_large_check
from core.calibration import measure_dependence
from core.findings import Outcome
from core.policies import DriftPolicy
from core.reference import QualityRate, Reference, build_reference, count_bins
from monitoring.drift import WindowCounts, measure_drift
from monitoring.policy import decide
from monitoring.quality import check_quality
from monitoring.traffic import Traffic

REFERENCE_ROWS, WINDOW_ROWS, COLUMNS = 10_000, 1_000, 10
SHIFTS = {0.0: 0.2, 0.5: 0.3, 0.9: 0.5}
PROGRESS_CHECKS = 100
SMALL_EVIDENTLY_CHECKS, EVIDENTLY_CHECKS = 40, 20
NAMES = [f"column {number}" for number in range(1, COLUMNS + 1)]
WATCHED = [*NAMES, "category", "prediction"]
CATEGORY_SHARES = (0.4, 0.3, 0.2, 0.08, 0.02)
ABSENT_SHARE, REFUSED_SHARE = 0.02, 0.005
POLICY = DriftPolicy()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = (1_000,) * 14


@dataclass(frozen=True)
class Rows:
    """Rows of one draw: `watched (rows, 12)` are ten columns, a category and the prediction; `is_absent (rows,)`."""

    watched: FloatArray
    is_absent: NDArray[np.bool_]

    def change(self, column: int, values: FloatArray | float) -> "Rows":
        """The rows with other values in one column; the prediction stays what it was."""
        watched = self.watched.copy()
        watched[:, column] = values
        return Rows(watched, self.is_absent)


def make_stream(generator: np.random.Generator, rows: int, factor: float, columns: int = COLUMNS) -> FloatArray:
    """AR(1) streams `(rows, columns)` of unit variance."""
    noise = generator.normal(size=(rows + 200, columns)) * np.sqrt(1 - factor**2)
    return np.asarray(signal.lfilter([1], [1, -factor], noise, axis=0)[200:])


def make_rows(generator: np.random.Generator, rows: int, factor: float, shift: float = 0.0, column: int = 0) -> Rows:
    """Rows whose every part is as autocorrelated as `factor` says; `column` is shifted before it is predicted from."""
    stream = make_stream(generator, rows, factor, COLUMNS + 2)
    values = stream[:, :COLUMNS].copy()
    values[:, column] += shift
    weights = np.linspace(1, 0.1, COLUMNS)
    prediction = values @ (weights / np.linalg.norm(weights))
    codes = 1.0 + np.searchsorted(stats.norm.ppf(np.cumsum(CATEGORY_SHARES)[:-1]), stream[:, COLUMNS])
    is_absent = stream[:, COLUMNS + 1] < stats.norm.ppf(ABSENT_SHARE)
    return Rows(np.column_stack([values, codes, prediction]), is_absent)


def build_bench_reference(rows: Rows, seed: int) -> Reference:
    """The reference of these training rows, as training builds it."""
    absent = QualityRate(
        column="nullable",
        kind="imputed",
        position=COLUMNS,
        faulty=int(rows.is_absent.sum()),
        rows=len(rows.is_absent),
        dependence=measure_dependence(rows.is_absent.astype(np.float64)),
    )
    return build_reference(
        rows.watched,
        WATCHED,
        [""] * len(WATCHED),
        seed=seed,
        window_sizes=(WINDOW_ROWS,) if len(rows.watched) > WINDOW_ROWS else (50,),
        categories=("category",),
        predictions=("prediction",),
        quality=(absent,),
    )


def judge(reference: Reference, rows: Rows, generator: np.random.Generator) -> Outcome:
    """What a first check of these served rows decides, by counts as in production."""
    served = len(rows.watched)
    counts = dict(zip(WATCHED, count_bins(reference, rows.watched), strict=True))
    refused = int(generator.binomial(served, REFUSED_SHARE))
    faults = {("nullable", "imputed"): int(rows.is_absent.sum()), (NAMES[0], "bounds"): refused}
    window = WindowCounts(served, counts, refused, {fault: count for fault, count in faults.items() if count})
    today = int(generator.poisson(DAYS[0]))
    traffic = Traffic(NOW, (today, *generator.poisson(DAYS).tolist()))
    measure = measure_drift(reference, window, POLICY.minimum_effect)
    quality = check_quality(reference, window, traffic, POLICY)
    return decide([], measure, POLICY, NOW, served=served, quality=quality).outcome


def find_upper_limit(alarms: int, checks: int) -> float:
    """The upper limit of Clopper and Pearson's interval at 95 %, one-sided."""
    return 1.0 if alarms == checks else float(stats.beta.ppf(0.95, alarms + 1, checks - alarms))


@dataclass(frozen=True)
class Rates:
    """Checks of fair windows that alarmed, of shifts that were found, and of broken columns that were not."""

    checks: int
    alarms: int
    found: int
    unseen: int
    said_of_one_row: int


def measure_rates(factor: float, checks: int) -> Rates:
    """Check `checks` fair windows, the same with one column shifted, and with one that vanishes, sticks or is NaN."""
    alarms = found = unseen = said = 0
    for check in range(checks):
        generator = np.random.default_rng([round(factor * 10), check])
        reference = build_bench_reference(make_rows(generator, REFERENCE_ROWS, factor), check)
        state = generator.bit_generator.state
        fair = make_rows(generator, WINDOW_ROWS, factor)
        column = check % COLUMNS
        alarms += judge(reference, fair, generator) != "fine"
        generator.bit_generator.state = state
        shifted = make_rows(generator, WINDOW_ROWS, factor, SHIFTS[factor], column)
        found += judge(reference, shifted, generator) != "fine"
        stuck = fair.change(column, float(np.median(fair.watched[:, column])))
        unseen += judge(reference, stuck, generator) == "fine"
        unseen += judge(reference, fair.change(column, np.nan), generator) != "data_incident"
        unseen += _judge_vanished(reference, fair, column) != "data_incident"
        one = Rows(fair.watched[:1] + 100.0, fair.is_absent[:1])
        said += judge(reference, one, generator) != "fine"
        if (check + 1) % PROGRESS_CHECKS == 0:
            print(f"factor {factor}: {check + 1} checks, {alarms} false alarms, {found} found", flush=True)
    print(
        f"factor {factor}: {alarms} false alarms in {checks} checks ({alarms / checks:.1%}), a shift of "
        f"{SHIFTS[factor]} standard deviations in one column found {found / checks:.1%} of the time; of "
        f"{3 * checks} columns that vanished, stuck or turned NaN {unseen} were not found; of one row something was "
        f"said {said} times",
        flush=True,
    )
    return Rates(checks, alarms, found, unseen, said)


def _judge_vanished(reference: Reference, rows: Rows, column: int) -> Outcome:
    counts = dict(zip(WATCHED, count_bins(reference, rows.watched), strict=True))
    del counts[NAMES[column]]
    measure = measure_drift(reference, WindowCounts(len(rows.watched), counts), POLICY.minimum_effect)
    return decide([], measure, POLICY, NOW, served=len(rows.watched)).outcome


def measure_evidently(checks: int, sizes: tuple[int, int], factor: float = 0.0) -> int:
    """False alarms of Evidently's defaults: checks in which any column is called drifted."""
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import Report
        from evidently.presets import DataDriftPreset

        alarms = 0
        for check in range(checks):
            generator = np.random.default_rng([0, check])
            frames = [pd.DataFrame(make_stream(generator, rows, factor), columns=NAMES) for rows in sizes]
            document = Report([DataDriftPreset()]).run(frames[1], frames[0]).dict()
            counted = next(entry for entry in document["metrics"] if "DriftedColumnsCount" in entry["metric_name"])
            alarms += counted["value"]["count"] > 0
    print(
        f"Evidently's defaults, {sizes[0]} rows beside {sizes[1]}, factor {factor}: {alarms} false alarms in {checks} "
        "checks",
        flush=True,
    )
    return alarms


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000_000, help="predictions of the check from the database")
    parser.add_argument("--years", type=int, default=40, help="years of hourly checks that are simulated")
    options = parser.parse_args(arguments)
    rates = {factor: measure_rates(factor, options.checks) for factor in SHIFTS}
    small_checks, checks = min(options.checks, SMALL_EVIDENTLY_CHECKS), min(options.checks, EVIDENTLY_CHECKS)
    evidently = measure_evidently(small_checks, (500, 200))
    for factor in (0.0, 0.9):
        measure_evidently(checks, (REFERENCE_ROWS, WINDOW_ROWS), factor)
    computed = compute_retrainings(rates[0.0].alarms / options.checks)
    print(
        f"False retrainings a year, hourly checks, 2 of 3: {computed:.1f} computed as if every hour's check were "
        "independent of the one before",
        flush=True,
    )
    for factor in SHIFTS:
        simulated = simulate_retrainings(factor, options.years)
        print(f"  {simulated.sentence}", flush=True)
    with bench_database() as connections:
        seconds, error = measure_large_check(connections, options.rows)
    limits = {factor: find_upper_limit(one.alarms, one.checks) for factor, one in rates.items()}
    print(
        f"far_iid={limits[0.0]:.3f} far_ar05={limits[0.5]:.3f} far_ar09={limits[0.9]:.3f} "
        f"power_iid={rates[0.0].found / options.checks:.3f} power_ar09={rates[0.9].found / options.checks:.3f} "
        f"evidently_far={find_upper_limit(evidently, small_checks):.3f} "
        f"check_10m_s={seconds:.4f} ks_error={error:.5f}"
    )


if __name__ == "__main__":
    main()
