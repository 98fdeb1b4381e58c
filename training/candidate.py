"""A version on disk as the gate scores it: its export, run by ONNX Runtime, on rows of a snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from core.model_directory import ModelDirectory
from core.registry import Registry
from training.export import SavedModel, load_saved
from training.kinds import get_kind
from training.parts import Columns, FloatArray, Part, Seen
from training.provenance import Provenance


@dataclass(frozen=True)
class Candidate:
    """A version, its own contract, what it computes, and what its training looked at."""

    version: int
    contract: Contract
    model: SavedModel
    seen: Seen
    parameters: Mapping[str, int | float] = field(default_factory=dict)
    """What its training was set to, of a version that is read from its files."""

    def predict(self, contract: Contract, columns: Columns, part: Part) -> "Scored":
        """Predictions for the rows of `part`, which `contract` built from the snapshot's columns, in its terms.

        A version whose window reaches back before the series cannot predict its first rows: they are left out.
        """
        kind = get_kind(self.contract)
        if kind.adapt_part is None:
            whole = kind.build_part(self.contract, columns)
            own = whole.take(np.isin(whole.keys, part.keys))
        else:
            own = kind.adapt_part(self.contract, contract, part)
        predictions = self.model.predict(own.inputs).astype(np.float64)
        return Scored(own.keys, kind.translate(self.contract, contract, predictions))


@dataclass(frozen=True)
class Scored:
    """Predictions `(rows, outputs)` for the rows named by `keys` `(rows,)`."""

    keys: NDArray[np.str_]
    predictions: FloatArray


def open_candidate(version: int, folder: Path) -> Candidate:
    """The candidate whose model directory is `folder`; raises ModelDirectoryRejected."""
    directory = ModelDirectory.open(folder)
    provenance = Provenance.from_document(directory.evaluation)
    return Candidate(
        version=version,
        contract=Contract.model_validate(directory.contract),
        model=load_saved(directory),
        seen=Seen.from_document(directory.evaluation),
        parameters={} if provenance is None else provenance.parameters,
    )


def load_champion(registry: Registry, model: str, folder: Path) -> tuple[Candidate, Path] | None:
    """The version in Production with the path of its Keras file, downloaded below `folder`; None if there is none."""
    production = registry.find_production(model)
    if production is None:
        return None
    place = Path(mkdtemp(prefix="champion-", dir=folder))
    registry.download(model, production.version, place)
    return open_candidate(production.version, place), ModelDirectory.open(place).keras_path
