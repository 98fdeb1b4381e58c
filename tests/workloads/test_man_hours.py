"""Workload `man_hours`: the faults of other implementations of the design, and its sample."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from core.codecs import decode_row
from core.contract import Contract
from core.errors import RequestRejected
from tests.workloads.reading import read_columns
from training.kinds import get_kind
from training.parts import Parts
from workloads.man_hours.sample import write_sample
from workloads.man_hours.workload import WORKLOAD

ROW = {"sum_daily_hours": 40.0, "age_fleet": 12.5, "cycles": 20, "sum_monthly_utilisation": 160.0, "aircraft": "PR-AAA"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_sample(tmp_path / "rows.csv", rows=600)
    return tmp_path / "rows.csv"


def cut(path: Path, variant: str) -> tuple[Contract, Parts]:
    declared = WORKLOAD.build_contract(None, variant)
    columns = read_columns(declared, path)
    contract = get_kind(declared).learn_contract(declared, columns, WORKLOAD.split)
    return contract, get_kind(contract).split_columns(contract, columns, WORKLOAD.split)


def test_variants_are_of_four_and_of_five_features() -> None:
    assert {name: len(features) for name, features in WORKLOAD.variants.items()} == {"4_features": 4, "5_features": 5}


@pytest.mark.parametrize("variant", sorted(WORKLOAD.variants))
def test_weeks_are_split_in_time_order_for_all_aircraft_at_once(path: Path, variant: str) -> None:
    _, parts = cut(path, variant)
    times = [part.times for part in (parts.train, parts.validation, parts.holdout)]
    assert times[0] is not None and times[1] is not None and times[2] is not None
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()


def test_scaling_is_that_of_the_training_weeks_alone(path: Path) -> None:
    contract, parts = cut(path, "4_features")
    model = WORKLOAD.load_function("model")(contract, WORKLOAD.resolve_parameters(), parts.train.inputs)
    scale = model.get_layer("scale")
    inputs = parts.train.inputs.astype(np.float64)
    np.testing.assert_allclose(np.ravel(scale.mean), inputs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.ravel(scale.variance), inputs.var(axis=0), rtol=1e-4)
    assert contract.target_mean == pytest.approx(parts.train.targets.mean())


def test_monthly_utilisation_holds_the_last_four_weeks_and_no_later_one(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    flown: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        hours = flown[row["aircraft"]]
        hours.append(float(row["sum_daily_hours"]))
        assert float(row["sum_monthly_utilisation"]) == pytest.approx(sum(hours[-4:]), abs=0.051)
    assert len(flown) == 10


def test_weeks_that_come_later_change_nothing_of_those_before(path: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "more.csv", rows=900)
    assert (tmp_path / "more.csv").read_text(encoding="utf-8").startswith(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "40", True, -1.0, 169.0])
def test_a_value_that_is_absent_not_finite_or_out_of_bounds_is_refused_by_its_column(path: Path, value: object) -> None:
    contract, _ = cut(path, "5_features")
    with pytest.raises(RequestRejected, match=r"body\.sum_daily_hours"):
        decode_row(contract, {**ROW, "sum_daily_hours": value})


def test_a_missing_feature_is_refused_and_what_a_variant_does_not_use_is_left_out(path: Path) -> None:
    five, _ = cut(path, "5_features")
    four, _ = cut(path, "4_features")
    short = {name: value for name, value in ROW.items() if name != "aircraft"}
    with pytest.raises(RequestRejected, match=r"body\.aircraft: nothing"):
        decode_row(five, short)
    assert decode_row(four, short).tolist() == decode_row(four, ROW).tolist() == [[40.0, 12.5, 20.0, 160.0]]
    assert decode_row(five, ROW).tolist() == [[40.0, 12.5, 20.0, 160.0, 1.0]]


def test_an_aircraft_that_training_has_not_seen_is_unknown_and_answered(path: Path) -> None:
    contract, _ = cut(path, "5_features")
    assert decode_row(contract, {**ROW, "aircraft": "PR-NEW"})[0, 4] == 0.0
