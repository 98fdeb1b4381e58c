"""What a version costs the service: time for one row, and size."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.export import SavedModel

_ROUNDS = 7
_CALLS = 30
_BYTES_A_MB = 1e6


@dataclass(frozen=True)
class Cost:
    """One row through the runtime that serves in milliseconds, and the file that it reads in millions of bytes."""

    latency_ms: float
    size_mb: float


def measure_cost(model: SavedModel, path: Path, inputs: NDArray[np.float32]) -> Cost:
    """The cost of the model in the file `path`, on rows of `inputs` `(rows, …)`, of which there is at least one.

    The latency is the least of the medians of several rounds: what other processes take away only ever adds to it.
    """
    rows = [inputs[place : place + 1] for place in np.arange(_CALLS) % len(inputs)]
    medians = []
    for _ in range(_ROUNDS):
        taken = []
        for row in rows:
            began = time.perf_counter()
            model.predict(row)
            taken.append(time.perf_counter() - began)
        medians.append(float(np.median(taken)))
    return Cost(latency_ms=1e3 * min(medians), size_mb=path.stat().st_size / _BYTES_A_MB)
