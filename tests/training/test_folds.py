"""Folds of a search: they end before the hold-out, score different rows, and learn from their training part alone."""

from dataclasses import replace

import numpy as np
import pytest

from core.contract import Column, Key
from tests.training.series import draw_columns
from training.folds import FOLDS, build_folds
from training.kinds import get_kind
from workloads.catalogue import get_workload
from workloads.declaration import SplitPolicy

ROWS = 200


def test_folds_of_a_series_roll_and_end_before_the_holdout() -> None:
    workload = get_workload("prices")
    columns = draw_columns(workload.build_contract(), ROWS)
    contract = workload.build_contract({**workload.resolve_parameters(), "sequence_length": 8})
    holdout = get_kind(contract).split_columns(contract, columns, workload.split).holdout
    folds = [parts for _, parts in build_folds(workload, contract, columns)]
    assert len(folds) == FOLDS
    declared = get_kind(contract).split_columns(contract, columns, workload.split).validation
    assert folds[-1].holdout.keys.tolist() == declared.keys.tolist()
    ends = []
    for parts in folds:
        assert holdout.times is not None and parts.holdout.ends is not None and parts.holdout.times is not None
        assert parts.validation.ends is not None and parts.validation.times is not None and parts.train.ends is not None
        assert parts.holdout.ends.max() < holdout.times.min()
        assert parts.train.ends.max() < parts.validation.times.min() <= parts.validation.ends.max()
        assert parts.validation.ends.max() < parts.holdout.times.min()
        assert parts.holdout.rows == ROWS // 10
        ends.append(parts.holdout.ends.max())
    assert ends == sorted(set(ends))


def test_folds_of_rows_without_time_score_different_rows_and_learn_from_their_training_part_alone() -> None:
    generator = np.random.default_rng(0)
    workload = replace(
        get_workload("failures"),
        name="cars",
        columns=(
            Column(name="id", dtype="text"),
            Column(name="maker", dtype="text"),
            Column(name="failed", dtype="integer", minimum=0, maximum=1),
        ),
        key=Key(id="id"),
        target="failed",
        features=("maker",),
        monitored=(),
        routes=(),
        slices=(),
    )
    ids = np.array([f"car {number}" for number in range(600)], dtype=object)
    # Each maker occurs once, so that a vocabulary shows which rows it was learnt from.
    columns = {"id": ids, "maker": ids, "failed": generator.integers(0, 2, 600)}
    contract = workload.build_contract()
    learnt = get_kind(contract).learn_contract(contract, columns, workload.split)
    held_out = set(get_kind(contract).split_columns(learnt, columns, workload.split).holdout.keys.tolist())
    scored: list[str] = []
    for fold, parts in build_folds(workload, contract, columns):
        train, stop, score = (set(part.keys.tolist()) for part in (parts.train, parts.validation, parts.holdout))
        assert not train & stop and not train & score and not stop & score
        assert len(train | stop | score) == 600 - len(held_out)
        assert not (train | stop | score) & held_out
        assert set(fold.vocabularies["maker"]) == train
        scored += score
    assert len(scored) == len(set(scored)) > 100


@pytest.mark.parametrize("shares", [(0.25, 0.25), (0.4, 0.2), (0.2, 0.4), (0.1, 0.7)])
@pytest.mark.parametrize("key", [Key(id="id"), Key(time="at")])
def test_folds_of_a_split_with_large_shares_have_rows_in_every_part(shares: tuple[float, float], key: Key) -> None:
    workload = replace(
        get_workload("failures"),
        name="cars",
        columns=(
            Column(name="id", dtype="text"),
            Column(name="at", dtype="time"),
            Column(name="size", dtype="float"),
            Column(name="failed", dtype="integer", minimum=0, maximum=1),
        ),
        key=key,
        target="failed",
        features=("size",),
        monitored=(),
        slices=(),
        split=SplitPolicy(*shares),
    )
    columns = {
        "id": np.array([f"car {number}" for number in range(600)], dtype=object),
        "at": np.datetime64("2026-01-01", "us") + np.arange(600) * np.timedelta64(1, "h"),
        "size": np.arange(600.0),
        "failed": np.arange(600) % 2,
    }
    contract = workload.build_contract()
    found = [parts for _, parts in build_folds(workload, contract, columns)]
    assert found
    for parts in found:
        assert min(parts.train.rows, parts.validation.rows, parts.holdout.rows) > 10
