"""Loading a version beside the ones that serve: read, verify, try, warm. Nothing else sees it before that is done."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from core.contract import Contract
from core.errors import ModelDirectoryRejected
from core.features import PREDICTION
from core.model_directory import SAMPLE_ROWS, ModelDirectory
from core.reference import Reference
from serving.answers import find_unknown_fields
from serving.runtimes import Runtime, load_runtime

_WARMING_CALLS = 5


@dataclass(eq=False)
class LoadedVersion:
    """A version that can answer.

    `row_ms` is how long the model took for one row while it was warmed; `model_bytes` is the size of its files, which
    its memory grows with; `used_at_s` is when it was last asked for, on the clock that only goes forwards. Nothing else
    of it changes.
    """

    model: str
    version: int
    contract: Contract
    reference: Reference | None
    runtime: Runtime
    loaded_at: datetime
    row_ms: float
    model_bytes: int
    used_at_s: float = field(default_factory=time.monotonic)

    @cached_property
    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """What says on every answer whose it is."""
        return [(b"x-model-name", self.model.encode()), (b"x-model-version", b"%d" % self.version)]


def load_version(folder: Path, model: str, version: int) -> LoadedVersion:
    """Load the version in `folder`: checksums, contract, reference, model, and an answer that is finite.

    Raises ModelDirectoryRejected, ReferenceRejected.
    """
    directory = ModelDirectory.open(folder)
    try:
        contract = Contract.model_validate_json(orjson.dumps(directory.contract))
    except ValidationError as error:
        raise ModelDirectoryRejected(str(folder), f"contract.json is not a contract: {error}") from error
    _check_contract(folder, contract, model)
    reference = _load_reference(folder, directory, contract)
    runtime = load_runtime(directory)
    if runtime.input_shape != contract.input_shape:
        reason = f"the model takes {runtime.input_shape} where its contract says {contract.input_shape}"
        raise ModelDirectoryRejected(str(folder), reason)
    row_ms = _warm(folder, runtime, _build_warming_rows(folder, directory, contract))
    model_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return LoadedVersion(model, version, contract, reference, runtime, datetime.now(UTC), row_ms, model_bytes)


def build_trial_row(contract: Contract) -> NDArray[np.float32]:
    """One row `(1, *input_shape)` that the contract allows: every column at 1, or at its bound nearest to that."""
    row = [
        min(max(1.0, -np.inf if c.minimum is None else c.minimum), np.inf if c.maximum is None else c.maximum)
        for c in (contract.column(name) for name in contract.features)
    ]
    return np.broadcast_to(np.asarray(row, dtype=np.float32), (1, *contract.input_shape)).copy()


def _check_contract(folder: Path, contract: Contract, model: str) -> None:
    if contract.model != model:
        raise ModelDirectoryRejected(str(folder), f"its contract is of model {contract.model!r}, not of {model!r}")
    for route in contract.routes:
        unknown = find_unknown_fields(contract, route)
        if unknown:
            raise ModelDirectoryRejected(str(folder), f"route {route.path} asks for {unknown}, which no answer has")


def _load_reference(folder: Path, directory: ModelDirectory, contract: Contract) -> Reference | None:
    if not contract.monitored:
        return None
    reference = Reference.from_json(orjson.dumps(directory.reference))
    monitored = tuple(feature.name for feature in contract.monitored)
    if reference.has_prediction:
        monitored = (*monitored, PREDICTION)
    if reference.names != monitored:
        reason = f"reference.json has features {reference.names} where the contract monitors {monitored}"
        raise ModelDirectoryRejected(str(folder), reason)
    return reference


def _build_warming_rows(folder: Path, directory: ModelDirectory, contract: Contract) -> NDArray[np.float32]:
    """Rows `(rows, *input_shape)` to warm with: those of the hold-out that training kept, else a trial row."""
    if SAMPLE_ROWS not in directory.evaluation:
        return build_trial_row(contract)
    rows = np.asarray(directory.evaluation[SAMPLE_ROWS], dtype=np.float32)
    if not len(rows) or rows.shape[1:] != contract.input_shape:
        reason = f"{SAMPLE_ROWS} has the shape {rows.shape} where the contract says {('rows', *contract.input_shape)}"
        raise ModelDirectoryRejected(str(folder), reason)
    return rows


def _warm(folder: Path, runtime: Runtime, rows: NDArray[np.float32]) -> float:
    times_ms = []
    for call in range(_WARMING_CALLS):
        row = rows[call % len(rows)][None]
        started_at = time.perf_counter()
        outputs = runtime.predict(row)
        times_ms.append((time.perf_counter() - started_at) * 1000)
        _check_answer(folder, outputs, 1)
    # Several rows at once take another way through most runtimes.
    _check_answer(folder, runtime.predict(rows), len(rows))
    return min(times_ms)


def _check_answer(folder: Path, outputs: NDArray[np.float32], rows: int) -> None:
    if outputs.ndim != 2 or len(outputs) != rows:
        raise ModelDirectoryRejected(str(folder), f"it answers {rows} row(s) with an array of shape {outputs.shape}")
    if not np.isfinite(outputs).all():
        raise ModelDirectoryRejected(str(folder), "it answers a row that its contract allows with NaN or infinity")
