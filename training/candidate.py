"""A version on disk as the gate scores it: its export, run by ONNX Runtime, on rows of a snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from core.inference import OnnxModel
from core.model_directory import ModelDirectory
from core.registry import Registry
from training.sequence import Part, build_part


@dataclass(frozen=True)
class Candidate:
    """A version, its own contract, what it computes, and the last time that its training looked at."""

    version: int
    contract: Contract
    model: OnnxModel
    trained_until: np.datetime64

    def predict(self, columns: Mapping[str, NDArray[np.generic]], times: NDArray[np.datetime64]) -> "Scored":
        """Predictions of the targets at `times` `(rows,)`, from the snapshot's columns.

        A version whose window reaches back before the series cannot predict its first rows: they are left out.
        """
        part = build_part(self.contract, columns)
        found = np.isin(part.times, times)
        chosen = Part(part.inputs[found], part.targets[found], part.baseline[found], part.times[found])
        predictions = self.model.predict(chosen.inputs).astype(np.float64)[:, 0]
        return Scored(chosen.times, predictions)


@dataclass(frozen=True)
class Scored:
    """Predictions `(rows,)` of the targets at `times` `(rows,)`."""

    times: NDArray[np.datetime64]
    predictions: NDArray[np.float64]


def open_candidate(version: int, folder: Path) -> Candidate:
    """The candidate whose model directory is `folder`; raises ModelDirectoryRejected."""
    directory = ModelDirectory.open(folder)
    return Candidate(
        version=version,
        contract=Contract.model_validate(directory.contract),
        model=OnnxModel.load(directory.onnx_path),
        trained_until=np.datetime64(str(directory.evaluation["trained_until"]), "us"),
    )


def load_champion(registry: Registry, model: str, folder: Path) -> tuple[Candidate, Path] | None:
    """The version in Production with the path of its Keras file, downloaded below `folder`; None if there is none."""
    production = registry.find_production(model)
    if production is None:
        return None
    place = Path(mkdtemp(prefix="champion-", dir=folder))
    registry.download(model, production.version, place)
    return open_candidate(production.version, place), ModelDirectory.open(place).keras_path
