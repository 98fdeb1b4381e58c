"""Folds that tuning scores a point on: cut from what lies before the hold-out, which no fold contains.

Each fold is cut as a training cuts a snapshot: a training part, a validation part that stops the fit, and a part that
scores it and decides nothing else. What is learnt for the contract is learnt from the fold's own training part.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from core.contract import Contract
from core.data_errors import SnapshotRejected
from training.kinds import get_kind
from training.parts import Columns, Parts, find_borders, hash_keys
from workloads.declaration import SplitPolicy, Workload

FOLDS = 3
_LEAST_TRAINING_SHARE = 1 / 3


def build_folds(
    workload: Workload, contract: Contract, columns: Columns, folds: int = FOLDS
) -> Iterator[tuple[Contract, Parts]]:
    """Up to `folds` folds, each with its contract; the `holdout` of its parts is the part that scores.

    Rows with a time: the origin rolls. The last fold scores the declared validation part and stops on as many rows
    before it, at most a third of what is left; each fold before ends one such part earlier. Rows without: each fold
    scores and stops on other hashes of the key. A ranking has one fold, whose validation part both stops and scores.
    Raises SnapshotRejected where there are too few rows.
    """
    if contract.kind == "ranking":
        kind = get_kind(contract)
        learnt = kind.learn_contract(contract, columns, workload.split)
        parts = kind.split_columns(learnt, columns, workload.split)
        yield learnt, replace(parts, holdout=parts.validation)
        return
    cuts = _cut_by_hash if contract.key.time is None else _cut_by_time
    for known, policy in cuts(workload, contract, columns, folds):
        kind = get_kind(contract)
        learnt = kind.learn_contract(contract, known, policy)
        yield learnt, kind.split_columns(learnt, known, policy)


def _cut_by_time(
    workload: Workload, contract: Contract, columns: Columns, folds: int
) -> Iterator[tuple[Columns, SplitPolicy]]:
    policy = workload.split
    times = columns[contract.key.time or ""].astype("datetime64[us]")
    borders = find_borders(times, policy.validation_share, policy.holdout_share)
    if borders is None:
        raise SnapshotRejected(contract.model, f"{len(times)} rows are too few to be tuned on; import more rows")
    ordered = np.sort(times[times < borders[1]])
    size = min(int(len(times) * policy.validation_share), int(len(ordered) * _LEAST_TRAINING_SHARE))
    while folds > 1 and len(ordered) - (folds + 1) * size < _LEAST_TRAINING_SHARE * len(ordered):
        folds -= 1
    for back in range(folds - 1, -1, -1):
        is_known = times < borders[1] if back == 0 else times < ordered[len(ordered) - back * size]
        # Half a row more, so that rounding down gives `size` rows.
        share = (size + 0.5) / int(is_known.sum())
        known = {name: values[is_known] for name, values in columns.items()}
        yield known, replace(policy, validation_share=share, holdout_share=share)


def _cut_by_hash(
    workload: Workload, contract: Contract, columns: Columns, folds: int
) -> Iterator[tuple[Columns, SplitPolicy]]:
    policy = workload.split
    kind = get_kind(contract)
    whole = kind.build_part(kind.learn_contract(contract, columns, policy), columns)
    is_known = hash_keys(whole.keys) >= policy.holdout_share
    known = {name: values[is_known] for name, values in columns.items()}
    left = 1 - policy.holdout_share
    size = min(policy.validation_share, left * _LEAST_TRAINING_SHARE)
    # The part that stops follows the one that scores, and neither may reach over into the hold-out.
    folds = min(folds, int(left / size + 1e-9) - 1)
    for number in range(folds):
        start = policy.holdout_share + number * size
        yield known, replace(policy, validation_share=size, holdout_share=size, start=start)
