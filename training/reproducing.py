"""Making a version again from its snapshot, and comparing what both predict on the hold-out."""

import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from core.connections import Connections
from core.contract import Contract
from core.data_errors import SnapshotNotFound
from core.errors import ArtifactNotFound, ParameterRejected
from core.model_directory import ModelDirectory
from core.snapshots import load_snapshot
from training.fit import load_model, predict
from training.provenance import Provenance, describe_provenance
from training.variants import Earlier, fit_variant
from workloads.declaration import Workload

logger = logging.getLogger(__name__)

RELATIVE_TOLERANCE = 1e-6
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Reproduction:
    """Whether the version was made again: the largest relative difference of a prediction on `rows` hold-out rows.

    `reasons` are, in words, why it could not be, or what is another than it was; a version may be equal all the same.
    """

    version: int
    is_equal: bool
    rows: int
    difference: float | None
    reasons: tuple[str, ...]


def reproduce_version(connections: Connections, workload: Workload, version: int) -> Reproduction:
    """Train the version again in this process and compare; raises ModelVersionNotFound."""
    registered = connections.registry.get_version(workload.name, version)
    with TemporaryDirectory(prefix="millrace-reproduce-") as place:
        folder = Path(place)
        stored = _download(connections, workload, registered.version, folder)
        was = Provenance.from_document(stored.evaluation)
        if was is None:
            reason = "it does not say what it was made with: it comes from an earlier version of Millrace"
            return Reproduction(version, False, 0, None, (reason,))
        now = describe_provenance(was.snapshot_digest, was.parameters, was.variant, was.continues)
        reasons = was.compare(now)
        try:
            return _train_again(connections, workload, version, stored, was, folder, reasons)
        except SnapshotNotFound:
            reasons.append(f"its snapshot {was.snapshot_digest} is not recorded any more")
        except ArtifactNotFound as error:
            reasons.append(f"the file of its snapshot is gone: {error.sentence}")
        except ParameterRejected as error:
            reasons.append(f"the workload no longer takes its parameters: {error.sentence}")
        return Reproduction(version, False, 0, None, tuple(reasons))


def _train_again(
    connections: Connections,
    workload: Workload,
    version: int,
    stored: ModelDirectory,
    was: Provenance,
    folder: Path,
    reasons: list[str],
) -> Reproduction:
    parameters = workload.resolve_parameters(was.parameters)
    with connections.engine.connect() as connection:
        columns = load_snapshot(connection, was.snapshot_digest, connections.tracking, folder)
    earlier: Earlier | None = None
    if was.continues is not None:
        before = _download(connections, workload, was.continues, folder)
        earlier = Earlier(Contract.model_validate(before.contract), before.keras_path)
    again = fit_variant(workload, parameters, columns, was.variant, earlier, lambda _epoch, _most: None)
    holdout = again.parts.holdout
    expected = predict(load_model(stored.keras_path), holdout.inputs)
    found = predict(again.fitted.model, holdout.inputs)
    if expected.shape != found.shape:
        reasons.append(f"it answers {expected.shape[1]} numbers a row and the new one {found.shape[1]}")
        return Reproduction(version, False, holdout.rows, None, tuple(reasons))
    difference = float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), _SMALLEST)))
    is_equal = difference <= RELATIVE_TOLERANCE
    if not is_equal and not reasons:
        reasons.append(
            "code, packages, snapshot and seed are the same: another processor or build computes differently"
        )
    return Reproduction(version, is_equal, holdout.rows, difference, tuple(reasons))


def _download(connections: Connections, workload: Workload, version: int, folder: Path) -> ModelDirectory:
    place = folder / f"version-{version}"
    place.mkdir()
    connections.registry.download(workload.name, version, place)
    return ModelDirectory.open(place)
