"""Scoring a registered version afresh on the rows that are stored now."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from core.connections import Connections
from core.data_errors import SnapshotRejected
from training.candidate import open_candidate
from training.kinds import get_kind
from training.parts import Columns


@dataclass(frozen=True)
class Rescore:
    """Metrics of a version, and of each baseline by name, on `rows` rows that it has not trained on."""

    version: int
    rows: int
    model: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]


def rescore_version(connections: Connections, model: str, version: int, columns: Columns) -> Rescore:
    """Score the version on those of the stored rows `columns` that it has not trained on.

    Raises ModelVersionNotFound, and SnapshotRejected where there is no such row.
    """
    registered = connections.registry.get_version(model, version)
    with TemporaryDirectory(prefix="millrace-evaluate-") as folder:
        connections.registry.download(model, registered.version, Path(folder))
        candidate = open_candidate(registered.version, Path(folder))
        contract, kind = candidate.contract, get_kind(candidate.contract)
        if kind.split_seen is None:
            whole = kind.build_part(contract, columns)
            is_unseen = kind.find_unseen(whole, candidate.seen)
            known, part = whole.take(~is_unseen), whole.take(is_unseen)
        else:
            known, part = kind.split_seen(contract, columns, candidate.seen)
        if part.rows == 0:
            seen = "in its hold-out" if candidate.seen.until is None else f"later than {candidate.seen.until}"
            raise SnapshotRejected(model, f"no row is {seen}: version {version} has trained on all")
        predictions = candidate.model.predict(part.inputs).astype(np.float64)
        baselines = kind.predict_baselines(contract, known, part)
    return Rescore(
        registered.version,
        part.rows,
        kind.measure(contract, part.targets, predictions),
        {name: kind.measure(contract, part.targets, predicted) for name, predicted in baselines.items()},
    )


def log_rescore(connections: Connections, run_id: str, rescore: Rescore) -> None:
    """Log the metrics to the run, the baselines' beside the model's."""
    metrics = {f"evaluation_{name}": value for name, value in rescore.model.items()}
    for baseline, measured in rescore.baselines.items():
        metrics |= {f"evaluation_{baseline}_{name}": value for name, value in measured.items()}
    connections.tracking.log_metrics(run_id, metrics)
    connections.tracking.log_document(run_id, asdict(rescore), "evaluation.json")
