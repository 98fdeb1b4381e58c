"""Kind `sequence`: rows of one or many series -> windows, parts in time order, persistence and seasonal naive.

One model serves every entity. A window lies within one entity's rows and, where gaps can be left, between two of them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from core.features import build_windows
from training.parts import Columns, FloatArray, Part, Parts, check_parts, cut_by_time, find_borders, refuse_parts
from workloads.declaration import SplitPolicy

PERSISTENCE = "persistence"
SEASONAL_NAIVE = "seasonal_naive"
_GAP_STEPS = 1.5
"""Two rows further apart than this many steps have a gap between them."""


def learn_contract(contract: Contract, columns: Columns, policy: SplitPolicy) -> Contract:
    """The version's contract: a sequence learns nothing for it."""
    return contract


def build_part(contract: Contract, columns: Columns) -> Part:
    """Every window of every series, ordered by the time of its first target, then by entity.

    The baselines are persistence (each step ahead is the target's last value) and, where a season is declared,
    the value one season before the step, or more where that is not known yet; persistence where the series is
    younger than that.
    """
    time = columns[contract.key.time or ""].astype("datetime64[us]")
    entity = None if contract.key.entity is None else columns[contract.key.entity].astype(np.str_)
    order = np.argsort(time, kind="stable") if entity is None else np.lexsort((time, entity))
    time = time[order]
    entity = None if entity is None else entity[order]
    series = np.stack([columns[name].astype(np.float64) for name in contract.features], axis=1)[order]
    target = columns[contract.target].astype(np.float64)[order]
    segments = _number_segments(contract, time, entity)

    windows, last = build_windows(series, contract.steps, contract.horizon)
    starts = last - contract.horizon - contract.steps + 1
    is_whole = segments[starts] == segments[last]
    windows, last, starts = windows[is_whole], last[is_whole], starts[is_whole]
    ahead = last[:, None] + np.arange(1 - contract.horizon, 1)
    first = ahead[:, 0]
    keys = np.datetime_as_string(time[first]) if len(first) else np.empty(0, dtype=np.str_)
    if entity is not None:
        keys = np.char.add(np.char.add(entity[first], "|"), keys)
    part = Part(
        inputs=np.ascontiguousarray(windows, dtype=np.float32),
        targets=target[ahead],
        keys=keys,
        times=time[first],
        ends=time[last],
        entities=None if entity is None else entity[first],
        naive=_build_naive(contract, target, segments, ahead),
    )
    if entity is None:
        return part
    by_time = np.argsort(time[first], kind="stable")
    return part.take(by_time)


def split_columns(contract: Contract, columns: Columns, policy: SplitPolicy) -> Parts:
    """Cut in time order, at the same times for all entities: the last `holdout_share` of the rows, before it
    `validation_share`, the rest trains.

    Shares are of the snapshot's rows, so that the borders lie at the same times whatever the length of a window.
    A window of a later part may look back over the border at inputs that were known by then; no target, and nothing
    computed from targets, crosses it. Raises SnapshotRejected if a part would be empty.
    """
    part = build_part(contract, columns)
    what = f"{part.rows} windows of {contract.steps} steps"
    times = columns[contract.key.time or ""].astype("datetime64[us]")
    borders = find_borders(times, policy.validation_share, policy.holdout_share)
    if borders is None:
        raise refuse_parts(contract, what)
    return check_parts(contract, cut_by_time(part, *borders), what)


def predict_baselines(contract: Contract, train: Part, part: Part) -> Mapping[str, FloatArray]:
    """Predictions `(rows, outputs)` for `part` by name, persistence first; `train` is not needed for them."""
    return part.naive


def _number_segments(
    contract: Contract, time: NDArray[np.datetime64], entity: NDArray[np.str_] | None
) -> NDArray[np.int64]:
    """The number `(rows,)` of the unbroken stretch that each row lies in, of rows ordered by entity and time."""
    is_new = np.zeros(len(time), dtype=np.bool_)
    if entity is not None:
        is_new[1:] |= entity[1:] != entity[:-1]
    if contract.gaps != "refuse" and contract.step_s is not None:
        longest = np.timedelta64(round(_GAP_STEPS * contract.step_s * 1e6), "us")
        is_new[1:] |= np.diff(time) > longest
    return np.cumsum(is_new).astype(np.int64)


def _build_naive(
    contract: Contract, target: FloatArray, segments: NDArray[np.int64], ahead: NDArray[np.int64]
) -> dict[str, FloatArray]:
    known = ahead[:, :1] - 1
    naive = {PERSISTENCE: np.repeat(target[known], contract.horizon, axis=1)}
    if contract.season is not None:
        # A step further ahead than one season takes the last season that was known.
        seasons = -(-np.arange(1, contract.horizon + 1) // contract.season)
        rows = ahead - seasons * contract.season
        is_known = (rows >= 0) & (segments[np.maximum(rows, 0)] == segments[ahead])
        naive[SEASONAL_NAIVE] = np.where(is_known, target[np.maximum(rows, 0)], naive[PERSISTENCE])
    return naive
