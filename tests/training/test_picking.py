"""Which trial of a front is picked."""

import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import ParameterRejected
from training.picking import get_picker

OBJECTIVES = ("mae", "rmse", "mape")


def build_front(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform([10, 20, 1], [30, 90, 1.5], size=(9, 3))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("pick", "position"), [("min_mae", 0), ("min_rmse", 1), ("min_mape", 2)])
def test_strategy_of_one_error_picks_its_smallest(pick: str, position: int, seed: int) -> None:
    front = build_front(seed).tolist()
    picked = get_picker(pick, OBJECTIVES)(front)
    assert front[picked][position] == min(row[position] for row in front)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_picks_the_smallest_sum_of_ranges(seed: int) -> None:
    front = build_front(seed)
    sums = []
    for row in front:
        shares = [(row[i] - min(front[:, i])) / (max(front[:, i]) - min(front[:, i])) for i in range(3)]
        sums.append(sum(shares))
    assert get_picker("weighted", OBJECTIVES)(front.tolist()) == sums.index(min(sums))


def test_weighted_picks_of_a_front_of_one() -> None:
    assert get_picker("weighted", OBJECTIVES)([[1.0, 2.0, 3.0]]) == 0


def test_unknown_pick_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ParameterRejected, match="pick='best' is not allowed: .*min_mae, min_rmse, min_mape, weighted"):
        get_picker("best", OBJECTIVES)
