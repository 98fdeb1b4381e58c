"""Tuning: the study lasts, the hold-out is never looked at, the front and the pick are what they say."""

import csv
import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray

from core.connections import Connections
from core.database import migrate_database
from core.errors import ParameterRejected, TrainingFailed
from tests.training.series import draw_columns
from training import tuning
from training.fit import fit_model
from training.tuning import OBJECTIVES, Tuned, get_picker, tune_workload
from workloads.declaration import Parameter, Workload
from workloads.prices.workload import WORKLOAD

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROWS = 200
SEARCH: Mapping[str, tuple[float, float]] = {
    "sequence_length": (8, 24),
    "hidden_size": (4, 6),
    "num_layers": (1, 2),
    "batch_size": (32, 64),
    "max_epochs": (1, 2),
    "patience": (1, 2),
}
Columns = Mapping[str, NDArray[np.generic]]


def narrow(name: str, parameter: Parameter) -> Parameter:
    return replace(parameter, search=SEARCH[name]) if name in SEARCH else parameter


@pytest.fixture
def workload() -> Workload:
    parameters = {name: narrow(name, parameter) for name, parameter in WORKLOAD.parameters.items()}
    return replace(WORKLOAD, name=f"series_{uuid.uuid4().hex[:12]}", parameters=parameters)


@pytest.fixture
def columns(workload: Workload) -> Columns:
    return draw_columns(workload.build_contract(), ROWS)


@pytest.fixture
def client(tracking_server: str) -> MlflowClient:
    return MlflowClient(tracking_server, tracking_server)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(level)


def tune(
    connections: Connections, workload: Workload, columns: Columns, *, study: str, trials: int, pick: str = "min_mae"
) -> tuple[Tuned, str]:
    run_id = connections.tracking.start_run(workload.name, None, {})
    tuned = tune_workload(connections, workload, columns, study_name=study, trials=trials, pick=pick, run_id=run_id)
    return tuned, run_id


def load_children(client: MlflowClient, workload: Workload, run_id: str) -> dict[int, Mapping[str, float]]:
    """The metrics of each trial's run below the run, by the trial's number."""
    experiment = client.get_experiment_by_name(workload.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    return {int(run.data.tags["millrace.trial"]): run.data.metrics for run in runs}


def find_front(points: Mapping[int, Sequence[float]]) -> set[int]:
    """The points that no other is at least as good as in everything and better in something."""
    return {
        number
        for number, point in points.items()
        if not any(
            all(a <= b for a, b in zip(other, point, strict=True)) and tuple(other) != tuple(point)
            for other in points.values()
        )
    }


def test_study_lasts_and_goes_on_with_new_points_and_its_front_is_the_trials_that_none_dominates(
    connections: Connections, workload: Workload, columns: Columns, client: MlflowClient
) -> None:
    _, first_run = tune(connections, workload, columns, study="lasting", trials=2)
    tuned, second_run = tune(connections, workload, columns, study="lasting", trials=2, pick="weighted")
    # The platform's own migrations still know their database.
    migrate_database(connections.database_url)

    first, second = (load_children(client, workload, run_id) for run_id in (first_run, second_run))
    assert (sorted(first), sorted(second), tuned.trials) == ([0, 1], [2, 3], 4)
    points = {
        number: [metrics[f"validation_{name}"] for name in OBJECTIVES]
        for number, metrics in {**first, **second}.items()
    }
    assert len({tuple(point) for point in points.values()}) == 4

    rows = list(csv.DictReader(io.StringIO(tuned.front_csv)))
    assert {int(row["trial"]) for row in rows} == find_front(points)
    for row in rows:
        assert [float(row[name]) for name in OBJECTIVES] == pytest.approx(points[int(row["trial"])])
    picked = [row for row in rows if row["is_picked"] == "True"]
    assert len(picked) == 1
    assert {name: float(picked[0][name]) for name in tuned.parameters} == pytest.approx(dict(tuned.parameters))
    assert dict(tuned.errors) == pytest.approx({name: float(picked[0][name]) for name in OBJECTIVES})
    assert set(tuned.parameters) == set(workload.parameters) - {"seed"}
    for name, value in tuned.parameters.items():
        assert workload.parameters[name].check(name, value) == value

    files = {file.path for file in client.list_artifacts(second_run, "tuning")}
    assert files == {"tuning/pareto_front.csv", "tuning/pareto_front.png", "tuning/picked.json"}
    picture = connections.tracking.find_artifact(second_run, "tuning/pareto_front.png", 10**7)
    assert picture is not None and picture.startswith(b"\x89PNG")


def test_objectives_are_those_of_the_validation_part_and_never_look_at_the_holdout(
    connections: Connections, workload: Workload, columns: Columns, client: MlflowClient
) -> None:
    closes = columns["Close"].astype(np.float64)
    poisoned = closes.copy()
    poisoned[-ROWS // 10 :] *= 1e4
    broken = closes.copy()
    broken[-ROWS // 5 : -ROWS // 10] *= 1.5
    found = []
    for series in (closes, poisoned, broken):
        _, run_id = tune(
            connections, workload, {**columns, "Close": series}, study=f"study_{uuid.uuid4().hex[:8]}", trials=1
        )
        children = load_children(client, workload, run_id)
        found.append(
            {number: [metrics[f"validation_{name}"] for name in OBJECTIVES] for number, metrics in children.items()}
        )
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_trial_whose_loss_is_not_finite_is_failed_and_the_search_goes_on(
    connections: Connections, workload: Workload, columns: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail_first(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise TrainingFailed(workload.name, "fit", "the validation loss is not finite")
        return fit_model(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(tuning, "fit_model", fail_first)
    tuned, _ = tune(connections, workload, columns, study="failing", trials=2)
    assert (len(calls), tuned.trials) == (2, 2)
    calls.clear()
    with pytest.raises(TrainingFailed, match="no trial succeeded"):
        tune(connections, workload, columns, study="all_failing", trials=1)


# --- picking -----------------------------------------------------------------------------------------------------


def build_front(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform([10, 20, 1], [30, 90, 1.5], size=(9, 3))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("pick", "position"), [("min_mae", 0), ("min_rmse", 1), ("min_mape", 2)])
def test_strategy_of_one_error_picks_its_smallest(pick: str, position: int, seed: int) -> None:
    front = build_front(seed).tolist()
    picked = get_picker(pick)(front)
    assert front[picked][position] == min(row[position] for row in front)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_picks_the_smallest_sum_of_ranges(seed: int) -> None:
    front = build_front(seed)
    sums = []
    for row in front:
        shares = [(row[i] - min(front[:, i])) / (max(front[:, i]) - min(front[:, i])) for i in range(3)]
        sums.append(sum(shares))
    assert get_picker("weighted")(front.tolist()) == sums.index(min(sums))


def test_weighted_picks_of_a_front_of_one() -> None:
    assert get_picker("weighted")([[1.0, 2.0, 3.0]]) == 0


def test_unknown_pick_is_refused_with_those_that_are_known(
    connections: Connections, workload: Workload, columns: Columns
) -> None:
    with pytest.raises(ParameterRejected, match="pick='best' is not allowed: .*min_mae, min_rmse, min_mape, weighted"):
        tune(connections, workload, columns, study="refused", trials=1, pick="best")


@pytest.mark.parametrize("trials", [0, -3])
def test_no_trials_are_refused(connections: Connections, workload: Workload, columns: Columns, trials: int) -> None:
    with pytest.raises(ParameterRejected, match=rf"trials={trials} is not allowed: a whole number from 1"):
        tune(connections, workload, columns, study="refused", trials=trials)
