"""Sample data of workload `prices`."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np

FIRST_DAY = date(2018, 1, 1)
ROWS = 1_500


def write_sample(path: Path, *, rows: int = ROWS, seed: int = 7) -> None:
    """Write a CSV of `rows` daily closes, reproducible by `seed`.

    The process is GARCH(1,1) with Student-t innovations (5 degrees of freedom): the day's variance is
    v = 1e-5 + 0.10 r² + 0.88 v (r the last log return), the log return is sqrt(v) times an innovation of unit
    variance, and the close is the exponential of the sum of returns, from 10,000 USD. It has the fat tails and calm
    and stormy weeks of real prices, and nothing that predicts the next return's sign.
    Source: Bollerslev, "Generalized autoregressive conditional heteroskedasticity", 1986.
    """
    generator = np.random.default_rng(seed)
    innovations = generator.standard_t(5, rows) / np.sqrt(5 / 3)
    variance = 5e-4
    level = np.log(10_000.0)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("Date,Close\n")
        for day in range(rows):
            change = float(np.sqrt(variance) * innovations[day])
            level += change
            variance = 1e-5 + 0.10 * change**2 + 0.88 * variance
            file.write(f"{FIRST_DAY + timedelta(days=day)},{np.exp(level):.2f}\n")
