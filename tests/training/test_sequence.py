import numpy as np
import pytest

from core.contract import Column, Contract, Key, build_contract
from core.data_errors import SnapshotRejected
from training.parts import Part, Seen, find_unseen
from training.sequence import PERSISTENCE, SEASONAL_NAIVE, build_part, split_columns
from workloads.declaration import SplitPolicy

STEPS = 5


def list_times(part: Part) -> list[np.datetime64]:
    assert part.times is not None
    return list(part.times)


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
        assert part.targets[row, 0] == columns["level"][row + STEPS]
        assert part.naive[PERSISTENCE][row, 0] == columns["level"][row + STEPS - 1]
        assert list_times(part)[row] == columns["at"][row + STEPS]


def test_parts_follow_each_other_in_time_and_share_no_target(contract: Contract) -> None:
    whole = build_part(contract, build_columns(105))
    parts = split_columns(contract, build_columns(105), SplitPolicy(validation_share=0.2, holdout_share=0.1))
    assert (parts.train.rows, parts.validation.rows, parts.holdout.rows) == (69, 21, 10)
    times = [list_times(part) for part in (parts.train, parts.validation, parts.holdout)]
    assert times[0] + times[1] + times[2] == list_times(whole)
    assert times[0][-1] < times[1][0]
    assert times[1][-1] < times[2][0]


@pytest.mark.parametrize("steps", [2, 9, 20])
def test_borders_of_the_parts_do_not_depend_on_the_length_of_a_window(contract: Contract, steps: int) -> None:
    other = contract.model_copy(update={"steps": steps})
    policy = SplitPolicy(validation_share=0.15, holdout_share=0.1)
    expected, found = (split_columns(one, build_columns(101), policy) for one in (contract, other))
    assert list_times(found.validation) == list_times(expected.validation)
    assert (found.holdout.targets == expected.holdout.targets).all()
    assert (list_times(found.train)[-1], found.holdout.rows) == (list_times(expected.train)[-1], 10)


def test_nothing_of_a_later_part_reaches_the_training_part(contract: Contract) -> None:
    columns = build_columns(105)
    policy = SplitPolicy(validation_share=0.2, holdout_share=0.1)
    before = split_columns(contract, columns, policy).train
    border = STEPS + before.rows
    columns["level"][border:] = -1e6
    after = split_columns(contract, columns, policy).train
    assert (before.inputs == after.inputs).all()
    assert (before.targets == after.targets).all()


def test_rows_that_a_version_has_not_seen_are_those_after_its_last_target(contract: Contract) -> None:
    whole = build_part(contract, build_columns(20))
    unseen = whole.take(find_unseen(whole, Seen(list_times(whole)[9])))
    assert (unseen.keys == whole.keys[10:]).all()


@pytest.mark.parametrize("rows", [0, STEPS, STEPS + 1, STEPS + 4])
def test_too_few_rows_for_three_parts_are_refused_with_their_number(contract: Contract, rows: int) -> None:
    with pytest.raises(SnapshotRejected, match=f"{max(rows - STEPS, 0)} windows of {STEPS} steps are too few"):
        split_columns(contract, build_columns(rows), SplitPolicy())


# --- many series, several steps, gaps ----------------------------------------------------------------------------


def build_machines(**changed: object) -> Contract:
    fields: dict[str, object] = {
        "description": "many series",
        "kind": "sequence",
        "columns": (
            Column(name="machine", dtype="text"),
            Column(name="at", dtype="time"),
            Column(name="heat", dtype="float"),
            Column(name="load", dtype="float"),
        ),
        "key": Key(entity="machine", time="at"),
        "target": "heat",
        "features": ("load", "heat"),
        "steps": STEPS,
        "horizon": 3,
        "step_s": 86_400.0,
        "gaps": "allow",
        "season": 2,
    }
    return build_contract("machines", **{**fields, **changed})


def build_machine_columns(rows: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Rows of each machine on these days; heat is 1000 times the machine's number plus the day, load its negative."""
    cells = [(name, number, day) for number, (name, days) in enumerate(rows.items(), start=1) for day in days]
    heat = np.array([1000.0 * number + day for _, number, day in cells])
    return {
        "machine": np.array([name for name, _, _ in cells], dtype=object),
        "at": np.datetime64("2026-01-01", "us") + np.array([day for _, _, day in cells]) * np.timedelta64(1, "D"),
        "heat": heat,
        "load": -heat,
    }


@pytest.mark.parametrize("gaps", ["allow", "hold"])
def test_windows_span_neither_two_machines_nor_a_gap_that_is_left(gaps: str) -> None:
    days = {"a": [*range(20), *range(25, 40)], "b": list(range(12)), "c": list(range(4))}
    part = build_part(build_machines(gaps=gaps), build_machine_columns(days))
    length = STEPS + 3
    assert part.rows == (20 - length + 1) + (15 - length + 1) + (12 - length + 1)
    for row in range(part.rows):
        seen = [*part.inputs[row, :, 1].tolist(), *part.targets[row].tolist()]
        assert seen == [seen[0] + step for step in range(length)]
        assert part.inputs[row, :, 0].tolist() == [-heat for heat in seen[:STEPS]]
        assert part.entities is not None
        assert part.entities[row] == ("a", "b")[int(seen[0] // 1000) - 1]
        first_at = np.datetime64("2026-01-01", "us") + int(seen[STEPS] % 1000) * np.timedelta64(1, "D")
        assert list_times(part)[row] == first_at
        assert part.keys[row] == f"{part.entities[row]}|{first_at}"
    assert list_times(part) == sorted(list_times(part))


def test_machines_are_cut_at_the_same_time_and_no_target_lies_in_two_parts() -> None:
    columns = build_machine_columns({"a": list(range(60)), "b": list(range(30, 60))})
    parts = split_columns(build_machines(), columns, SplitPolicy(validation_share=0.2, holdout_share=0.2))
    targets = [set(part.targets.ravel().tolist()) for part in (parts.train, parts.validation, parts.holdout)]
    assert not targets[0] & targets[1]
    assert not targets[1] & targets[2]
    ends = [part.ends.max() for part in (parts.train, parts.validation) if part.ends is not None]
    assert ends[0] < min(list_times(parts.validation))
    assert ends[1] < min(list_times(parts.holdout))
    assert parts.holdout.entities is not None
    assert set(parts.holdout.entities.tolist()) == {"a", "b"}
    # 90 rows, a fifth of which are the last 9 days of both machines.
    assert min(list_times(parts.holdout)) == np.datetime64("2026-01-01", "us") + 51 * np.timedelta64(1, "D")


def test_baselines_know_nothing_but_what_lies_before_the_first_step_ahead() -> None:
    part = build_part(build_machines(), build_machine_columns({"a": list(range(20))}))
    last = part.inputs[:, -1, 1]
    assert list(part.naive) == [PERSISTENCE, SEASONAL_NAIVE]
    assert part.naive[PERSISTENCE].tolist() == [[heat] * 3 for heat in last]
    # Heat grows by one a day: one and two days ahead, the values of two days before; three ahead, of four.
    assert part.naive[SEASONAL_NAIVE].tolist() == [[heat - 1, heat, heat - 1] for heat in last]


def test_a_version_that_has_seen_a_target_has_seen_every_row_with_it() -> None:
    part = build_part(build_machines(), build_machine_columns({"a": list(range(30))}))
    assert part.ends is not None
    unseen = part.take(find_unseen(part, Seen(part.ends[4])))
    assert not set(unseen.targets.ravel().tolist()) & set(part.targets[:5].ravel().tolist())
    assert unseen.rows == part.rows - 7
