"""Kind `sequence`: rows of a series -> windows, time-ordered parts, the persistence baseline."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from core.errors import SnapshotRejected
from core.features import build_windows
from workloads.declaration import SplitPolicy

HORIZON = 1
BASELINE_NAME = "persistence"


@dataclass(frozen=True)
class Part:
    """Windows whose targets lie in one part of the time axis.

    `inputs` `(windows, steps, features)` float32 in raw units, `targets` `(windows,)` and `baseline` `(windows,)`
    float64 in the target's unit, `times` `(windows,)` datetime64[us] UTC of the targets.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.float64]
    baseline: NDArray[np.float64]
    times: NDArray[np.datetime64]

    @property
    def rows(self) -> int:
        return len(self.targets)

    def since(self, time: np.datetime64) -> "Part":
        """The windows whose target lies after `time`."""
        later = self.times > time
        return Part(self.inputs[later], self.targets[later], self.baseline[later], self.times[later])


@dataclass(frozen=True)
class Parts:
    """Training, validation and hold-out part, in this order in time, without a target in two of them."""

    train: Part
    validation: Part
    holdout: Part


def build_part(contract: Contract, columns: Mapping[str, NDArray[np.generic]]) -> Part:
    """Every window of the series; `columns` are the snapshot's columns `(rows,)` in time order.

    The baseline is persistence: the target's value one row before (the next close is today's).
    """
    series = np.stack([columns[name].astype(np.float64) for name in contract.features], axis=1)
    target = columns[contract.target].astype(np.float64)
    windows, rows = build_windows(series, contract.steps, HORIZON)
    times = columns[contract.key.time or ""].astype("datetime64[us]")
    return Part(
        inputs=np.ascontiguousarray(windows, dtype=np.float32),
        targets=target[rows],
        baseline=target[rows - HORIZON],
        times=times[rows],
    )


def split_part(contract: Contract, part: Part, policy: SplitPolicy) -> Parts:
    """Cut in time order: the last `holdout_share` of the rows, before it `validation_share`, the rest trains.

    Shares are of the series' rows, so that the borders lie at the same times whatever the length of a window.
    A window of a later part may look back over the border at inputs that were known by then; no target, and nothing
    computed from targets, crosses it. Raises SnapshotRejected if a part would be empty.
    """
    series_rows = part.rows + contract.steps + HORIZON - 1
    holdout = int(series_rows * policy.holdout_share)
    validation = int(series_rows * policy.validation_share)
    train = part.rows - validation - holdout
    if min(train, validation, holdout) < 1:
        raise SnapshotRejected(
            contract.model,
            f"{part.rows} windows of {contract.steps} steps are too few for a training, a validation and a hold-out "
            "part; import more rows",
        )
    return Parts(_cut(part, 0, train), _cut(part, train, train + validation), _cut(part, train + validation, part.rows))


def _cut(part: Part, first: int, end: int) -> Part:
    piece = slice(first, end)
    return Part(part.inputs[piece], part.targets[piece], part.baseline[piece], part.times[piece])
