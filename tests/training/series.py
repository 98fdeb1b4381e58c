"""Parts of the sample series for small fits."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from tests.workloads.reading import read_columns
from training.parts import Parts
from training.sequence import split_columns
from workloads.declaration import Workload
from workloads.prices.sample import write_sample


def draw_columns(contract: Contract, rows: int) -> Mapping[str, NDArray[np.generic]]:
    """The columns of the sample series, each `(rows,)`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_sample(path, rows=rows)
        return read_columns(contract, path)


def draw_parts(workload: Workload, parameters: Mapping[str, int | float], rows: int = 200) -> Parts:
    """Training, validation and hold-out part of the sample series."""
    contract = workload.build_contract(parameters)
    return split_columns(contract, draw_columns(contract, rows), workload.split)
