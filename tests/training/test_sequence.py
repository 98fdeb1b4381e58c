import numpy as np
import pytest

from core.contract import Column, Contract, Key, build_contract
from core.errors import SnapshotRejected
from training.sequence import build_part, split_part
from workloads.declaration import SplitPolicy

STEPS = 5


@pytest.fixture
def contract() -> Contract:
    return build_contract(
        "levels",
        description="a series",
        kind="sequence",
        columns=(Column(name="at", dtype="time"), Column(name="level", dtype="float")),
        key=Key(time="at"),
        target="level",
        features=("level",),
        steps=STEPS,
    )


def build_columns(rows: int) -> dict[str, np.ndarray]:
    return {
        "at": np.datetime64("2026-01-01", "us") + np.arange(rows) * np.timedelta64(1, "D"),
        "level": np.arange(rows, dtype=np.float64) ** 2,
    }


def test_each_window_holds_the_rows_before_its_target(contract: Contract) -> None:
    columns = build_columns(12)
    part = build_part(contract, columns)
    assert part.rows == 12 - STEPS
    for row in range(part.rows):
        assert part.inputs[row, :, 0].tolist() == columns["level"][row : row + STEPS].tolist()
        assert part.targets[row] == columns["level"][row + STEPS]
        assert part.baseline[row] == columns["level"][row + STEPS - 1]
        assert part.times[row] == columns["at"][row + STEPS]


def test_parts_follow_each_other_in_time_and_share_no_target(contract: Contract) -> None:
    whole = build_part(contract, build_columns(105))
    parts = split_part(contract, whole, SplitPolicy(validation_share=0.2, holdout_share=0.1))
    assert (parts.train.rows, parts.validation.rows, parts.holdout.rows) == (69, 21, 10)
    times = np.concatenate([parts.train.times, parts.validation.times, parts.holdout.times])
    assert (times == whole.times).all()
    assert parts.train.times[-1] < parts.validation.times[0]
    assert parts.validation.times[-1] < parts.holdout.times[0]


@pytest.mark.parametrize("steps", [2, 9, 20])
def test_borders_of_the_parts_do_not_depend_on_the_length_of_a_window(contract: Contract, steps: int) -> None:
    other = contract.model_copy(update={"steps": steps})
    policy = SplitPolicy(validation_share=0.15, holdout_share=0.1)
    expected, found = (split_part(one, build_part(one, build_columns(101)), policy) for one in (contract, other))
    assert (found.validation.times == expected.validation.times).all()
    assert (found.holdout.targets == expected.holdout.targets).all()
    assert (found.train.times[-1], found.holdout.rows) == (expected.train.times[-1], 10)


def test_nothing_of_a_later_part_reaches_the_training_part(contract: Contract) -> None:
    columns = build_columns(105)
    policy = SplitPolicy(validation_share=0.2, holdout_share=0.1)
    before = split_part(contract, build_part(contract, columns), policy).train
    border = STEPS + before.rows
    columns["level"][border:] = -1e6
    after = split_part(contract, build_part(contract, columns), policy).train
    assert (before.inputs == after.inputs).all()
    assert (before.targets == after.targets).all()


def test_rows_since_a_time_are_those_after_it(contract: Contract) -> None:
    whole = build_part(contract, build_columns(20))
    later = whole.since(whole.times[9])
    assert later.rows == whole.rows - 10
    assert later.times[0] == whole.times[10]


@pytest.mark.parametrize("rows", [0, STEPS, STEPS + 1, STEPS + 4])
def test_too_few_rows_for_three_parts_are_refused_with_their_number(contract: Contract, rows: int) -> None:
    with pytest.raises(SnapshotRejected, match=f"{max(rows - STEPS, 0)} windows of {STEPS} steps are too few"):
        split_part(contract, build_part(contract, build_columns(rows)), SplitPolicy())
