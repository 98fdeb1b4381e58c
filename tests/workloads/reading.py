"""Sample data as arrays."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract


def read_columns(contract: Contract, path: Path) -> Mapping[str, NDArray[np.generic]]:
    """The features, the target and the time of a CSV file, each `(rows,)`, as a snapshot gives them."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {*contract.features, contract.target}
    columns: dict[str, NDArray[np.generic]] = {
        name: np.array([float(row[name]) for row in rows], dtype=np.float64) for name in numbers
    }
    if contract.key.time is not None:
        columns[contract.key.time] = np.array([row[contract.key.time] for row in rows], dtype="datetime64[us]")
    return columns
