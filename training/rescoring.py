"""Scoring a registered version afresh on the rows that are stored now."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from core.connections import Connections
from core.errors import SnapshotRejected
from training.candidate import open_candidate
from training.evaluation import measure_errors
from training.sequence import BASELINE_NAME, build_part


@dataclass(frozen=True)
class Rescore:
    """Errors of a version and of the baseline on `rows` rows later than anything that it has trained on."""

    version: int
    rows: int
    model: Mapping[str, float]
    baseline: Mapping[str, float]


def rescore_version(
    connections: Connections, model: str, version: int, columns: Mapping[str, NDArray[np.generic]]
) -> Rescore:
    """Score the version on those of the stored rows `columns` that it has not trained on.

    Raises ModelVersionNotFound, and SnapshotRejected where there is no such row.
    """
    registered = connections.registry.get_version(model, version)
    with TemporaryDirectory(prefix="millrace-evaluate-") as folder:
        connections.registry.download(model, registered.version, Path(folder))
        candidate = open_candidate(registered.version, Path(folder))
        part = build_part(candidate.contract, columns).since(candidate.trained_until)
        if part.rows == 0:
            raise SnapshotRejected(model, f"no row is later than {candidate.trained_until}, what it was trained on")
        predictions = candidate.model.predict(part.inputs).astype(np.float64)[:, 0]
    return Rescore(
        registered.version,
        part.rows,
        measure_errors(part.targets, predictions),
        measure_errors(part.targets, part.baseline),
    )


def log_rescore(connections: Connections, run_id: str, rescore: Rescore) -> None:
    """Log the errors to the run, the baseline's beside the model's."""
    metrics = {f"evaluation_{name}": value for name, value in rescore.model.items()}
    metrics |= {f"evaluation_{BASELINE_NAME}_{name}": value for name, value in rescore.baseline.items()}
    connections.tracking.log_metrics(run_id, metrics)
    connections.tracking.log_document(run_id, asdict(rescore), "evaluation.json")
