"""The benchmark of false alarms and power at a size for every day, seeds fixed: the bounds are those of its proof."""

import re

import numpy as np
import pytest

from benchmarks.drift import find_upper_limit, main, measure_rates
from benchmarks.retrainings import (
    COLUMNS,
    NAMES,
    POLICY,
    ROWS_AN_HOUR,
    compute_retrainings,
    count_retrainings,
    measure_hours,
)
from core.reference import build_reference, count_bins
from monitoring.drift import WindowCounts, measure_drift

CHECKS = 30


@pytest.mark.parametrize(("factor", "least_found"), [(0.0, 28), (0.5, 27), (0.9, 16)])
def test_whole_checks_keep_their_rate_and_find_what_they_must(factor: float, least_found: int) -> None:
    rates = measure_rates(factor, CHECKS)
    # Of 30 checks at 4 % more than 5 alarm once in a thousand times.
    assert rates.alarms <= 5
    assert rates.found >= least_found
    assert rates.unseen == 0
    assert rates.said_of_one_row == 0


def test_the_benchmark_runs_to_its_line_and_reads_counts_exactly_enough(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--checks", "2", "--rows", "200000", "--years", "1"])
    printed = capsys.readouterr().out
    assert len(re.findall(r"^  factor 0\.\d: .* simulated with windows of 168 hours", printed, re.MULTILINE)) == 3
    line = dict(part.split("=") for part in printed.splitlines()[-1].split())
    fars = ["far_iid", "far_ar05", "far_ar09", "power_iid", "power_ar09", "evidently_far"]
    assert list(line) == [*fars, "check_10m_s", "ks_error"]
    assert all(0.0 <= float(line[name]) <= 1.0 for name in fars)
    assert float(line["check_10m_s"]) > 0.0
    assert float(line["ks_error"]) <= 0.005


def test_the_upper_limit_is_clopper_and_pearsons() -> None:
    assert find_upper_limit(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert find_upper_limit(5, 5) == 1.0


def test_a_simulated_year_judges_each_hour_as_a_check_does() -> None:
    generator = np.random.default_rng(1)
    reference = build_reference(
        generator.normal(size=(3_000, COLUMNS)), NAMES, [""] * COLUMNS, window_sizes=(1000, 2000)
    )
    hours = int(POLICY.window_h) + 30
    rows = generator.normal(size=(hours * ROWS_AN_HOUR, COLUMNS))
    rows[:, 0] += np.linspace(0, 0.4, len(rows))
    judged = measure_hours(reference, rows)
    assert judged.shape == (31, COLUMNS)
    for hour in (0, 15, 30):
        window = rows[hour * ROWS_AN_HOUR : (hour + int(POLICY.window_h)) * ROWS_AN_HOUR]
        counts = dict(zip(NAMES, count_bins(reference, window), strict=True))
        measure = measure_drift(reference, WindowCounts(len(window), counts), POLICY.minimum_effect)
        assert judged[hour].tolist() == [feature.is_drifted for feature in measure.features]
    assert judged[:, 0].any()


def test_a_spell_of_alarms_retrains_at_its_confirmation_and_then_once_a_cooldown() -> None:
    alarms = np.zeros(200, dtype=np.bool_)
    alarms[20:30] = True
    # Ten hours bring 60 predictions: no second check has seen enough new ones.
    assert count_retrainings(alarms) == 0
    alarms[20:45] = True
    assert count_retrainings(alarms) == 1
    alarms[20:100] = True
    assert count_retrainings(alarms) == 3


def test_the_computed_rate_is_that_of_independent_alarms() -> None:
    rate, checks, started, recent = 0.2, 200_000, 0, (False, False)
    for alarm in np.random.default_rng(2).random(checks) < rate:
        if alarm and any(recent):
            started, recent = started + 1, (False, False)
        else:
            recent = (recent[1], bool(alarm))
    assert compute_retrainings(rate) == pytest.approx(365 * 24 * started / checks, rel=0.03)
    assert compute_retrainings(0.0) == 0.0
