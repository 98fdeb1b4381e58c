"""A workload from a file: what is guessed, and what a declaration that does not hold together is told."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

from core.data_errors import RowsRejected
from core.errors import DeclarationRejected
from ingestion.profiling import profile_file
from tests.conftest import REPOSITORY
from tests.workloads.reading import read_columns
from training.fit import fit_model, predict
from training.kinds import get_kind
from workloads.declaration import Workload
from workloads.proposing import propose_workload

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MAX_BYTES = 100_000_000
AI4I = REPOSITORY.parent / "shared" / "data" / "ai4i2020.csv"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def propose(path: Path, **options: object) -> Workload:
    source = propose_workload(path.stem, profile_file(path, MAX_BYTES), **options)  # type: ignore[arg-type]
    assert len(source.splitlines()) < 60
    found: dict[str, object] = {}
    exec(compile(source, "workload.py", "exec"), found)  # noqa: S102  what is tested is this program
    workload = found["WORKLOAD"]
    assert isinstance(workload, Workload)
    workload.check()
    return workload


def write_pumps(path: Path, rows: int = 900) -> Path:
    generator = np.random.default_rng(2)
    hours, vibration = generator.uniform(0, 4000, rows), generator.gamma(4, 0.7, rows)
    site = generator.choice(["north", "south", "west"], rows)
    score = -4 + hours / 2000 + 0.6 * vibration + (site == "west")
    failed = generator.random(rows) < 1 / (1 + np.exp(-score))
    lines = ["pump,site,hours,pressure,vibration,failed"]
    for row in range(rows):
        pressure = "" if row % 11 == 3 else f"{generator.normal(6, 0.4):.1f}"
        lines.append(f"P{row:04d},{site[row]},{hours[row]:.1f},{pressure},{vibration[row]:.2f},{int(failed[row])}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_table_is_proposed_with_its_key_types_bounds_and_task(tmp_path: Path) -> None:
    workload = propose(write_pumps(tmp_path / "pumps.csv"))
    contract = workload.build_contract()
    assert (contract.kind, contract.task, contract.target, contract.key.id) == ("tabular", "binary", "failed", "pump")
    assert contract.features == ("site", "hours", "pressure", "vibration")
    assert [column.dtype for column in contract.columns] == ["text", "text", "float", "float", "float", "integer"]
    assert contract.column("pressure").imputation == "median"
    hours = contract.column("hours")
    assert hours.minimum == 0 and hours.maximum is not None and hours.maximum > 4000
    assert (contract.column("failed").minimum, contract.column("failed").maximum) == (0, 1)


def test_series_of_many_entities_is_proposed_with_its_time_entity_and_step(tmp_path: Path) -> None:
    path = tmp_path / "heat.csv"
    rows = [
        f"2026-01-01 {hour:02d}:00:00,{machine},{hour + 10 * place}"
        for place, machine in enumerate("ab")
        for hour in range(24)
    ]
    path.write_text("at,machine,heat\n" + "\n".join(rows) + "\n", encoding="utf-8")
    contract = propose(path).build_contract()
    assert (contract.kind, contract.key.time, contract.key.entity, contract.step_s) == (
        "sequence",
        "at",
        "machine",
        3600.0,
    )
    assert contract.features == ("heat",)


def test_texts_become_the_classes_of_the_target(tmp_path: Path) -> None:
    path = tmp_path / "grades.csv"
    path.write_text("size,grade\n" + "".join(f"{2 * row},{'abc'[row % 3]}\n" for row in range(30)), encoding="utf-8")
    contract = propose(path).build_contract()
    assert (contract.task, contract.classes, contract.outputs) == ("multiclass", ("a", "b", "c"), 3)


def test_target_that_is_no_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DeclarationRejected, match="target 'colour' is none of the columns site, hours"):
        propose(write_pumps(tmp_path / "pumps.csv"), target="colour")


def test_column_that_is_left_out_is_no_key_either(tmp_path: Path) -> None:
    contract = propose(write_pumps(tmp_path / "pumps.csv"), without=("pump",)).build_contract()
    assert (contract.key.id, contract.key.time) == (None, None)
    assert "pump" not in [column.name for column in contract.columns]


def test_column_to_be_left_out_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeclarationRejected, match="'pmup', to be left out, is none of the file's columns"):
        propose(write_pumps(tmp_path / "pumps.csv"), without=("pmup",))


@pytest.mark.parametrize(("text", "said"), [("a,b\n", "no rows"), ("a,b\n1,2\n3\n", "a CSV file with one heading")])
def test_file_that_is_no_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RowsRejected, match=said):
        profile_file(path, MAX_BYTES)


@pytest.mark.skipif(not AI4I.exists(), reason="shared/data/ai4i2020.csv is not beside the checkout")
def test_proposed_model_of_real_machine_failures_comes_near_gradient_boosting() -> None:
    parts_of_the_target = ("TWF", "HDF", "PWF", "OSF", "RNF")
    workload = propose(AI4I, target="Machine failure", without=parts_of_the_target)
    parameters = workload.resolve_parameters()
    declared = workload.build_contract(parameters)
    columns, kind = read_columns(declared, AI4I), get_kind(declared)
    contract = kind.learn_contract(declared, columns, workload.split)
    parts = kind.split_columns(contract, columns, workload.split)
    fitted = fit_model(workload, contract, parameters, parts.train, parts.validation)
    found = kind.measure(contract, parts.holdout.targets, predict(fitted.model, parts.holdout.inputs))["pr_auc"]
    peer = HistGradientBoostingClassifier(random_state=0, categorical_features=[contract.features.index("Type")])
    peer.fit(parts.train.inputs, parts.train.targets[:, 0])
    expected = average_precision_score(parts.holdout.targets[:, 0], peer.predict_proba(parts.holdout.inputs)[:, 1])
    assert found >= expected - 0.08
