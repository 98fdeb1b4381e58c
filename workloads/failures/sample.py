"""Sample data of workload `failures`."""

from pathlib import Path

import numpy as np

ROWS = 4_000
HEADING = "KNR,unique_names,1_status_10,2_status_10,718_status_10,1_status_13,2_status_13,718_status_13"


def write_sample(path: Path, *, rows: int = ROWS, seed: int = 7) -> None:
    """Write a CSV of `rows` cars, reproducible by `seed`.

    The process: a car has a quality q ~ N(0, 1), the worse the larger. It goes through 1 + Poisson(4) different checks
    (`unique_names`). With n checks the findings of family f and status s are Poisson with mean n * a(f, s) *
    exp(0.5 q): a is 0.5, 0.4 and 0.2 for families 1, 2 and 718 with status 10, 0.12 and 0.10 for families 1 and 2 with
    status 13. The car fails with probability 1 / (1 + exp(-z)), z = -3 + 0.9 q + 0.5 * min(718_status_10, 4) + 0.9 if
    families 1 and 2 both have a finding of status 13. About one car in eight fails. Nothing in the other columns is
    made from the label, and q itself is not in the file.
    """
    generator = np.random.default_rng(seed)
    quality = generator.normal(size=rows)
    checks = 1 + generator.poisson(4.0, rows)
    rates = np.array([0.5, 0.4, 0.2, 0.12, 0.10])
    findings = generator.poisson(checks[:, None] * rates * np.exp(0.5 * quality)[:, None])
    has_both = (findings[:, 3] > 0) & (findings[:, 4] > 0)
    score = -3.0 + 0.9 * quality + 0.5 * np.minimum(findings[:, 2], 4) + 0.9 * has_both
    has_failed = generator.random(rows) < 1.0 / (1.0 + np.exp(-score))
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{HEADING}\n")
        for row in range(rows):
            numbers = ",".join(f"{count}.0" for count in findings[row])
            file.write(f"2024.{row + 1:05d},{checks[row]},{numbers},{int(has_failed[row])}.0\n")
