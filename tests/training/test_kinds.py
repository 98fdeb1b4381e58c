"""What holds of every kind, asked of every workload of the catalogue on its sample."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from core.contract import Contract
from tests.workloads.reading import read_columns
from training.kinds import Kind, get_kind
from training.parts import Columns, Parts, describe_seen
from workloads.catalogue import load_catalogue
from workloads.declaration import Workload


@dataclass(frozen=True)
class Case:
    """A workload with its kind, its learnt contract, and its sample in parts."""

    workload: Workload
    kind: Kind
    contract: Contract
    columns: Columns
    parts: Parts


@pytest.fixture(scope="module", params=sorted(load_catalogue()))
def case(request: pytest.FixtureRequest) -> Case:
    workload = load_catalogue()[request.param]
    declared = workload.build_contract(variant=next(iter(workload.variants), ""))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sample.csv"
        workload.load_function("sample")(path)
        columns = read_columns(declared, path)
    kind = get_kind(declared)
    contract = kind.learn_contract(declared, columns, workload.split)
    return Case(workload, kind, contract, columns, kind.split_columns(contract, columns, workload.split))


def test_parts_have_the_shapes_that_the_contract_says(case: Case) -> None:
    for part in (case.parts.train, case.parts.validation, case.parts.holdout):
        assert part.rows > 0
        assert part.inputs.shape == (part.rows, *case.contract.input_shape)
        assert part.inputs.dtype == np.float32
        assert len(part.targets) == len(part.keys) == part.rows


def test_the_same_rows_give_the_same_parts(case: Case) -> None:
    again = case.kind.split_columns(case.contract, case.columns, case.workload.split)
    for part, other in zip(
        (case.parts.train, case.parts.validation, case.parts.holdout),
        (again.train, again.validation, again.holdout),
        strict=True,
    ):
        np.testing.assert_array_equal(part.keys, other.keys)
        np.testing.assert_array_equal(part.inputs, other.inputs)
        np.testing.assert_array_equal(part.targets, other.targets)


def test_a_version_has_not_looked_at_its_own_holdout(case: Case) -> None:
    seen = describe_seen(case.parts, case.workload.split.holdout_share)
    assert case.kind.find_unseen(case.parts.holdout, seen).all()


def test_every_baseline_is_measured_by_finite_numbers(case: Case) -> None:
    holdout = case.parts.holdout
    baselines = case.kind.predict_baselines(case.contract, case.parts.train, holdout)
    assert baselines
    for predictions in baselines.values():
        assert predictions.shape == (holdout.rows, case.contract.outputs)
        measured = case.kind.measure(case.contract, holdout.targets, predictions)
        assert measured
        assert np.isfinite(list(measured.values())).all()


def test_losses_of_the_gates_metric_are_one_a_row_and_their_mean_orders_as_the_metric_does(case: Case) -> None:
    holdout, metric = case.parts.holdout, case.workload.gate.metric
    baselines = case.kind.predict_baselines(case.contract, case.parts.train, holdout)
    order: list[tuple[float, float]] = []
    for predictions in baselines.values():
        losses = case.kind.compute_losses(case.contract, metric, holdout.targets, predictions)
        assert losses.shape == (holdout.rows,)
        assert (losses >= 0).all()
        order.append((losses.mean(), case.kind.measure(case.contract, holdout.targets, predictions)[metric]))
    assert [pair[1] for pair in sorted(order)] == sorted(pair[1] for pair in order)
