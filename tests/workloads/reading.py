"""Sample data as arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from core.contract import Contract
from ingestion import reading

_MAX_BYTES = 100_000_000


def read_columns(contract: Contract, path: Path) -> Mapping[str, NDArray[Any]]:
    """The columns of a CSV file, each `(rows,)`, as a snapshot gives them."""
    return reading.read_columns(contract, path, max_bytes=_MAX_BYTES)
