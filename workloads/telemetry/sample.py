"""Sample data of workload `telemetry`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

FIRST_AT = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = 4_032
STEP = timedelta(minutes=5)
STEPS_A_DAY = 288


def write_sample(path: Path, *, rows: int = ROWS, seed: int = 7) -> None:
    """Write a CSV of `rows` five-minute readings of one machine, reproducible by `seed`.

    The process is a body that takes heat from a load and gives it to the room (Newton's law of cooling, one step an
    Euler step): T += 0.04 (room + 55 load - T) + e, where e is Gaussian with deviation 0.15. The room's temperature is
    22 + 4 sin(2 pi day), the load is a two-state chain, 1 or 0.6, that changes with probability 1/150 a step. The
    sensor adds Gaussian noise with deviation 0.6, so that the last reading alone is not the best forecast.
    """
    generator = np.random.default_rng(seed)
    changes = generator.random(rows) < 1 / 150
    disturbances = 0.15 * generator.standard_normal(rows)
    noise = 0.6 * generator.standard_normal(rows)
    load, temperature = 1.0, 77.0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("machine,time,temperature\n")
        for step in range(rows):
            load = 1.6 - load if changes[step] else load
            room = 22.0 + 4.0 * np.sin(2 * np.pi * step / STEPS_A_DAY)
            temperature += 0.04 * (room + 55.0 * load - temperature) + disturbances[step]
            at = FIRST_AT + step * STEP
            file.write(f"press_1,{at:%Y-%m-%dT%H:%M:%S},{temperature + noise[step]:.3f}\n")
