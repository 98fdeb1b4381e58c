"""What every workload of the catalogue has to keep to; workloads are found, not named."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import Engine

from core.codecs import decode_row
from core.contract import Contract
from core.errors import ParameterRejected, WorkloadNotFound
from core.features import build_monitored
from ingestion.importing import import_file
from serving.answers import find_unknown_fields
from tests.conftest import REPOSITORY
from tests.workloads.reading import read_columns
from training.kinds import get_kind
from training.parts import Parts
from training.slices import find_slice
from training.tabular import build_keys
from workloads.catalogue import get_workload, load_catalogue
from workloads.declaration import Parameter, Workload

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SEEDS = (7, 8)


@pytest.fixture(params=sorted(load_catalogue()))
def workload(request: pytest.FixtureRequest) -> Workload:
    return get_workload(request.param)


@pytest.fixture
def sample(workload: Workload, tmp_path: Path) -> Path:
    path = tmp_path / f"{workload.name}.csv"
    workload.load_function("sample")(path)
    return path


def list_parameter_sets(workload: Workload) -> dict[str, dict[str, int | float]]:
    """The defaults, and all parameters at the smallest and at the largest that tuning may choose."""
    searched = {
        name: parameter.search or (parameter.minimum, parameter.maximum)
        for name, parameter in workload.parameters.items()
        if name != "seed"
    }
    return {
        "default": workload.resolve_parameters(),
        "smallest": workload.resolve_parameters({name: low for name, (low, _) in searched.items()}),
        "largest": workload.resolve_parameters({name: high for name, (_, high) in searched.items()}),
    }


@dataclass(frozen=True)
class Case:
    """One variant of a workload with its sample: the contract with what is learnt, and the parts."""

    contract: Contract
    parts: Parts


def build_cases(workload: Workload, parameters: Mapping[str, int | float], sample: Path) -> list[Case]:
    cases = []
    for variant in workload.variants or [""]:
        declared = workload.build_contract(parameters, variant)
        kind, columns = get_kind(declared), read_columns(declared, sample)
        contract = kind.learn_contract(declared, columns, workload.split)
        cases.append(Case(contract, kind.split_columns(contract, columns, workload.split)))
    return cases


def test_unknown_workload_is_answered_with_those_that_are_known(workload: Workload) -> None:
    with pytest.raises(WorkloadNotFound, match=rf"'no_such'; known are .*{workload.name}"):
        get_workload("no_such")


def test_contract_builds_under_the_workloads_name(workload: Workload) -> None:
    contract = workload.build_contract()
    assert contract.model == workload.name
    assert Contract.model_validate_json(contract.model_dump_json()) == contract


def test_documented_routes_fill_in_known_names_only(workload: Workload) -> None:
    contract = workload.build_contract()
    for route in contract.routes:
        assert find_unknown_fields(contract, route) == [], route.path


def test_sample_is_the_same_bytes_for_the_same_seed_and_others_for_another(workload: Workload, tmp_path: Path) -> None:
    write = workload.load_function("sample")
    paths = [tmp_path / name for name in ("first.csv", "again.csv", "other.csv")]
    for path, seed in zip(paths, (SEEDS[0], SEEDS[0], SEEDS[1]), strict=True):
        write(path, seed=seed)
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_sample_imports_without_a_fault(workload: Workload, sample: Path, engine: Engine) -> None:
    result = import_file(engine, workload.build_contract(), sample, name=sample.name, actor="tests", kind="sample")
    assert result.rows_new > 0
    assert (result.rows_changed, result.rows_repeated, result.gaps) == (0, 0, 0)
    assert result.ignored_columns == ()


def test_sample_is_long_enough_to_train_tune_and_pass_the_gate(workload: Workload, sample: Path) -> None:
    for parameters in list_parameter_sets(workload).values():
        for case in build_cases(workload, parameters, sample):
            assert case.parts.holdout.rows >= workload.gate.minimum_rows
            assert case.parts.train.rows > case.parts.validation.rows


def test_search_bounds_lie_inside_those_of_a_run(workload: Workload) -> None:
    assert "seed" in workload.parameters
    for name, parameter in workload.parameters.items():
        low, high = parameter.search or (parameter.minimum, parameter.maximum)
        assert parameter.minimum <= low < high <= parameter.maximum, name
        assert parameter.minimum <= parameter.default <= parameter.maximum, name


@pytest.mark.parametrize("size", ["default", "smallest", "largest"])
def test_model_fits_the_contract_answers_finitely_and_is_loaded_without_our_code(
    workload: Workload, sample: Path, size: str, tmp_path: Path
) -> None:
    parameters = list_parameter_sets(workload)[size]
    for case in build_cases(workload, parameters, sample):
        check_model(workload, case, parameters, tmp_path / f"{case.contract.variant}.keras")


def check_model(workload: Workload, case: Case, parameters: Mapping[str, int | float], path: Path) -> None:
    contract, parts = case.contract, case.parts
    fitted = workload.load_function("model")(contract, parameters, parts.train.inputs)
    model = get_kind(contract).finish_model(contract, fitted, parts.train)
    assert model.input_shape == (None, *contract.input_shape)
    inputs = parts.holdout.inputs[:50]
    # Away from the weights of the beginning, where a model may be constant.
    move_weights(model)
    answers = predict(model, inputs)
    assert answers.shape == (50, contract.outputs)
    assert np.isfinite(answers).all()
    assert np.ptp(answers) > 0
    # As it is after a fit.
    fitted.optimizer.build(fitted.trainable_variables)
    model.save(path)
    loaded = keras.models.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(predict(loaded, inputs), answers)


def move_weights(model: keras.Model) -> None:
    generator = np.random.default_rng(1)
    model.set_weights([weight + 0.05 * generator.normal(size=weight.shape) for weight in model.get_weights()])


def predict(model: keras.Model, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(model.predict_on_batch(inputs))


def test_monitored_features_of_the_sample_are_finite_and_not_constant(workload: Workload, sample: Path) -> None:
    for case in build_cases(workload, workload.resolve_parameters(), sample):
        assert case.contract.monitored
        values = build_monitored(case.contract, case.parts.train.inputs)
        assert values.shape[1] == len(case.contract.monitored)
        assert np.isfinite(values).all()
        assert (np.ptp(values, axis=0) > 0).all()


def test_baselines_of_the_sample_are_predictions_that_pass_the_checks_of_sanity(
    workload: Workload, sample: Path
) -> None:
    for case in build_cases(workload, workload.resolve_parameters(), sample):
        contract, kind, holdout = case.contract, get_kind(case.contract), case.parts.holdout
        baselines = kind.predict_baselines(contract, case.parts.train, holdout)
        assert baselines
        for name, predictions in baselines.items():
            assert predictions.shape == (holdout.rows, contract.outputs), name
            assert np.isfinite(predictions).all(), name
            losses = kind.compute_losses(contract, workload.gate.metric, holdout.targets, predictions)
            assert losses.shape == (holdout.rows,)
            assert np.isfinite(list(kind.measure(contract, holdout.targets, predictions).values())).all()


def test_slices_of_the_sample_have_rows_and_leave_some_out(workload: Workload, sample: Path) -> None:
    for case in build_cases(workload, workload.resolve_parameters(), sample):
        for chosen in workload.slices:
            rows = find_slice(case.contract, case.parts.holdout, chosen)
            assert 0 < rows.sum() < case.parts.holdout.rows, chosen.name


def test_rows_of_the_sample_are_decoded_as_training_reads_them(workload: Workload, sample: Path) -> None:
    for case in build_cases(workload, workload.resolve_parameters(), sample):
        contract = case.contract
        if contract.kind != "tabular":
            continue
        columns = read_columns(contract, sample)
        part = get_kind(contract).build_part(contract, columns)
        keys = build_keys(contract, columns)
        for place in range(0, len(keys), len(keys) // 7):
            row = {name: columns[name][place] for name in contract.features}
            body = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
            expected = part.inputs[part.keys == keys[place]]
            np.testing.assert_array_equal(decode_row(contract, body), expected)


# --- parameters --------------------------------------------------------------------------------------------------

WHOLE = Parameter(30, 8, 256, "closes in one window")
REAL = Parameter(0.1, 0.0, 0.6, "share of units")
ALLOWED: Mapping[str, tuple[Parameter, str]] = {
    "whole": (WHOLE, "a whole number from 8 to 256 (closes in one window)"),
    "real": (REAL, "a number from 0.0 to 0.6 (share of units)"),
}


@given(st.integers(8, 256))
def test_a_whole_number_within_its_bounds_is_taken_in_its_own_type(value: int) -> None:
    for given_value in (value, float(value), str(value), f" {value}.0 "):
        checked = WHOLE.check("steps", given_value)
        assert (checked, type(checked)) == (value, int)


@given(st.floats(0.0, 0.6))
def test_a_number_within_its_bounds_is_taken_exactly(value: float) -> None:
    for given_value in (value, repr(value)):
        checked = REAL.check("dropout", given_value)
        assert (checked, type(checked)) == (value, float)


REFUSED = (
    st.text().filter(lambda text: not _is_number(text))
    | st.none()
    | st.booleans()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.integers())
    | st.binary()
    | st.sampled_from([float("nan"), float("inf"), -float("inf"), "nan", "inf", "-inf", "1e999", 10**400])
    | st.integers(max_value=-1)
    | st.integers(min_value=257)
    | st.floats(min_value=8.001, max_value=8.999)
)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("which", list(ALLOWED))
@given(value=REFUSED)
def test_any_other_value_is_refused_with_what_is_allowed(which: str, value: object) -> None:
    parameter, allowed = ALLOWED[which]
    with pytest.raises(ParameterRejected) as refused:
        parameter.check("knob", value)
    assert refused.value.sentence.startswith("knob=")
    assert refused.value.sentence.endswith(f"is not allowed: {allowed}.")


@given(st.floats(8, 256).filter(lambda value: not value.is_integer()))
def test_a_fraction_is_no_whole_number(value: float) -> None:
    with pytest.raises(ParameterRejected, match="a whole number"):
        WHOLE.check("steps", value)


def test_unknown_parameter_is_named_with_those_that_are_known(workload: Workload) -> None:
    with pytest.raises(ParameterRejected, match=rf"no_such=3 .*{next(iter(workload.parameters))}"):
        workload.resolve_parameters({"no_such": 3})


def test_example_of_the_readme_continues_the_sample(tmp_path: Path) -> None:
    example = (REPOSITORY / "examples" / "prices.csv").read_text(encoding="utf-8").splitlines()
    sample = tmp_path / "prices.csv"
    get_workload("prices").load_function("sample")(sample)
    rows = sample.read_text(encoding="utf-8").splitlines()
    assert example[: len(rows)] == rows
    assert len(example) > len(rows)
