"""Slices of a part: which rows a workload's `Slice` means."""

import numpy as np

from core.contract import Contract
from training.parts import Mask, Part
from workloads.declaration import Slice


def find_slice(contract: Contract, part: Part, chosen: Slice) -> Mask:
    """Which rows `(rows,)` of the part lie in the slice; of a sequence the last step of the window counts."""
    if chosen.column == contract.key.entity and part.entities is not None and chosen.values:
        return np.asarray(np.isin(part.entities, chosen.values))
    values = part.inputs[..., contract.features.index(chosen.column)]
    if values.ndim > 1:
        values = values[:, -1]
    if chosen.values:
        codes = contract.codes[chosen.column]
        return np.asarray(np.isin(values, [codes.get(value, 0) for value in chosen.values]))
    low = -np.inf if chosen.minimum is None else chosen.minimum
    high = np.inf if chosen.maximum is None else chosen.maximum
    return np.asarray((values >= low) & (values <= high))
