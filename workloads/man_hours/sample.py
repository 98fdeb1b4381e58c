"""Sample data of workload `man_hours`."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np

FIRST_WEEK = date(2022, 1, 3)
AIRCRAFT = 10
WEEKS = 150
_MONTH_WEEKS = 4


def write_sample(path: Path, *, rows: int = AIRCRAFT * WEEKS, seed: int = 7) -> None:
    """Write a CSV of the first `rows` weekly rows of ten aircraft, week by week, reproducible by `seed`.

    The process: aircraft i is a(i) ~ U(1, 25) years old at the start and needs a share e(i) ~ N(1, 0.15) of the usual
    effort. In week t it flies h = 168 * 0.3 * (1 + 0.3 sin(2 pi t / 52)) * exp(0.25 z) hours, z an AR(1) process with
    coefficient 0.7 and unit variance, at most 140, in Poisson(h / 2.2) + 1 cycles. Its week takes e(i) * (20 + 1.1 h +
    0.8 cycles + 0.02 a u) man-hours, u the hours of the four weeks that end with this one (fewer at the start) and a
    the age, times exp(0.1 n), n ~ N(0, 1). No column of a week is made from a later week.
    """
    generator = np.random.default_rng(seed)
    ages = generator.uniform(1.0, 25.0, AIRCRAFT)
    efforts = generator.normal(1.0, 0.15, AIRCRAFT)
    state = generator.normal(size=AIRCRAFT)
    month: list[np.ndarray] = []
    lines = ["date,aircraft,sum_daily_hours,age_fleet,cycles,sum_monthly_utilisation,man_hours"]
    for week in range(-(-rows // AIRCRAFT)):
        state = 0.7 * state + np.sqrt(1 - 0.7**2) * generator.normal(size=AIRCRAFT)
        season = 1.0 + 0.3 * np.sin(2 * np.pi * week / 52)
        hours = np.minimum(168 * 0.3 * season * np.exp(0.25 * state), 140.0).round(1)
        cycles = generator.poisson(hours / 2.2) + 1
        month = [*month, hours][-_MONTH_WEEKS:]
        utilisation = np.sum(month, axis=0)
        age = ages + week / 52
        effort = 20.0 + 1.1 * hours + 0.8 * cycles + 0.02 * age * utilisation
        man_hours = efforts * effort * np.exp(0.1 * generator.normal(size=AIRCRAFT))
        day = FIRST_WEEK + timedelta(weeks=week)
        lines += [
            f"{day},PR-{chr(65 + i)}{chr(65 + i)}A,{hours[i]:.1f},{age[i]:.2f},{cycles[i]},"
            f"{utilisation[i]:.1f},{man_hours[i]:.1f}"
            for i in range(AIRCRAFT)
        ]
    path.write_text("\n".join(lines[: rows + 1]) + "\n", encoding="utf-8")
