"""Tuning: the study lasts, the hold-out is never looked at, the front and the pick are what they say."""

import csv
import io
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray
from sqlalchemy import make_url

from core.connections import Connections
from core.database import migrate_database
from core.errors import ParameterRejected, TrainingFailed
from tests.training.series import draw_columns
from training import studies, tuning
from training.fit import Fitted, fit_model
from training.folds import FOLDS
from training.picking import Tuned, conclude_study
from training.studies import find_study_snapshot, open_study
from training.tuning import list_objectives, run_trials
from workloads.catalogue import get_workload
from workloads.declaration import Workload
from workloads.prices.workload import WORKLOAD

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROWS = 200
OBJECTIVES = ("mae", "rmse", "mape")
SNAPSHOT = "a" * 64
SEARCH: Mapping[str, tuple[float, float]] = {
    "sequence_length": (8, 24),
    "hidden_size": (4, 6),
    "num_layers": (1, 2),
    "batch_size": (32, 64),
    "max_epochs": (1, 2),
    "patience": (1, 2),
}
Columns = Mapping[str, NDArray[np.generic]]


@pytest.fixture
def workload() -> Workload:
    narrowed = {name: replace(WORKLOAD.parameters[name], search=bounds) for name, bounds in SEARCH.items()}
    parameters = {**WORKLOAD.parameters, **narrowed}
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
    connections: Connections,
    workload: Workload,
    columns: Columns,
    *,
    study: str,
    trials: int,
    pick: str = "min_mae",
    objectives: tuple[str, ...] = OBJECTIVES,
) -> tuple[Tuned, str]:
    run_id = connections.tracking.start_run(workload.name, None, {})
    run_trials(
        connections,
        workload,
        columns,
        study_name=study,
        snapshot=SNAPSHOT,
        objectives=objectives,
        trials=trials,
        run_id=run_id,
    )
    with open_study(connections, study, objectives, SNAPSHOT) as opened:
        return conclude_study(connections.tracking, workload, opened, objectives, pick, run_id), run_id


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
    _, first_run = tune(connections, workload, columns, study="lasting", trials=1)
    # The number that is wanted is the study's total.
    tuned, second_run = tune(connections, workload, columns, study="lasting", trials=3, pick="weighted")
    # The platform's own migrations still know their database.
    migrate_database(connections.database_url)

    first, second = (load_children(client, workload, run_id) for run_id in (first_run, second_run))
    assert (sorted(first), sorted(second), tuned.trials) == ([0], [1, 2], 3)
    points = {
        number: [metrics[f"validation_{name}"] for name in OBJECTIVES]
        for number, metrics in {**first, **second}.items()
    }
    assert len({tuple(point) for point in points.values()}) == 3

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
    names = ("history.png", "parameters.png", "pareto_front.csv", "pareto_front.png", "picked.json")
    assert files == {f"tuning/{name}" for name in names}
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

    def fail_first(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise TrainingFailed(workload.name, "fit", "the validation loss is not finite")
        return fit_model(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(tuning, "fit_model", fail_first)
    tuned, _ = tune(connections, workload, columns, study="failing", trials=2)
    assert (len(calls), tuned.trials) == (1 + FOLDS, 2)
    calls.clear()
    with pytest.raises(TrainingFailed, match="no trial succeeded"):
        tune(connections, workload, columns, study="all_failing", trials=1)


def test_every_searched_parameter_is_drawn_and_reaches_the_fit(
    connections: Connections,
    workload: Workload,
    columns: Columns,
    monkeypatch: pytest.MonkeyPatch,
    client: MlflowClient,
) -> None:
    fitted_with: list[dict[str, int | float]] = []

    def note(
        _workload: Workload, _contract: object, parameters: dict[str, int | float], *_: object, **__: object
    ) -> None:
        fitted_with.append(dict(parameters))
        raise TrainingFailed(workload.name, "fit", "noted")

    monkeypatch.setattr(tuning, "fit_model", note)
    with pytest.raises(TrainingFailed, match="no trial succeeded"):
        tune(connections, workload, columns, study="parameters", trials=8)
    assert len(fitted_with) == 8
    for name, parameter in workload.parameters.items():
        drawn = {parameters[name] for parameters in fitted_with}
        assert (len(drawn) > 1) == (name != "seed"), name
        low, high = parameter.search or (parameter.minimum, parameter.maximum)
        assert name == "seed" or all(low <= value <= high for value in drawn)


def test_study_does_not_go_on_with_other_objectives_or_other_rows(connections: Connections) -> None:
    with open_study(connections, "begun", ("mae",), "one"):
        pass
    with pytest.raises(ParameterRejected, match="begun with"), open_study(connections, "begun", ("rmse",), "one"):
        pass
    with pytest.raises(ParameterRejected, match="begun with"), open_study(connections, "begun", ("mae",), "two"):
        pass
    assert find_study_snapshot(connections, "begun") == "one"
    assert find_study_snapshot(connections, "another") is None


# --- pruning -----------------------------------------------------------------------------------------------------


EPOCHS = 2


class Answers:
    """Fits that take no time: the error of each trial in each epoch is given."""

    def __init__(self, errors: Sequence[float], epochs: int) -> None:
        self._errors = list(errors)
        self._epochs = epochs
        self.seen: list[int] = []
        self._parameters: object = None

    def fit(
        self,
        _workload: object,
        _contract: object,
        parameters: object,
        _train: object,
        _validation: object,
        **named: Any,
    ) -> Fitted:
        # The folds of one trial are fitted with the same parameters.
        if parameters is not self._parameters:
            self._parameters = parameters
            self.seen.append(0)
        trial = len(self.seen) - 1
        error = self._errors[trial]
        for epoch in range(1, self._epochs + 1):
            self.seen[trial] += 1
            if named["watch"] is not None:
                named["watch"](epoch, lambda inputs: inputs[:, -1, :].astype(np.float64) * (1 + error))
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.error = error
        return Fitted(model, {"loss": [error], "val_loss": [error]}, 1)

    def predict(self, model: Any, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(inputs[:, -1, :].astype(np.float64) * (1 + model.error))


def prune(
    connections: Connections,
    workload: Workload,
    columns: Columns,
    monkeypatch: pytest.MonkeyPatch,
    objectives: tuple[str, ...],
) -> tuple[Answers, list[optuna.trial.FrozenTrial]]:
    answers = Answers([0.10, 0.11, 0.12, 0.13, 0.14, 0.9, 0.01], epochs=EPOCHS)
    monkeypatch.setattr(tuning, "fit_model", answers.fit)
    monkeypatch.setattr(tuning, "predict", answers.predict)
    tune(connections, workload, columns, study="pruned", trials=7, objectives=objectives)
    with open_study(connections, "pruned", objectives, SNAPSHOT) as study:
        return answers, study.trials


def test_search_of_one_objective_prunes_a_bad_trial_in_an_early_epoch(
    connections: Connections, workload: Workload, columns: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, trials = prune(connections, workload, columns, monkeypatch, ("mae",))
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert answers.seen == [EPOCHS * FOLDS] * 5 + [2, EPOCHS * FOLDS]


def test_search_of_several_objectives_ends_a_clearly_dominated_trial_after_its_first_fold(
    connections: Connections,
    workload: Workload,
    columns: Columns,
    monkeypatch: pytest.MonkeyPatch,
    client: MlflowClient,
) -> None:
    answers, trials = prune(connections, workload, columns, monkeypatch, OBJECTIVES)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert answers.seen == [EPOCHS * FOLDS] * 5 + [EPOCHS, EPOCHS * FOLDS]
    run = client.get_run(trials[5].user_attrs["run_id"])
    assert run.info.status == "KILLED"
    assert "clearly better in every objective" in run.data.tags["millrace.pruned"]


# --- several processes -------------------------------------------------------------------------------------------


def test_trial_that_lost_its_process_is_failed_and_its_point_tried_again(
    connections: Connections,
    workload: Workload,
    columns: Columns,
    monkeypatch: pytest.MonkeyPatch,
    client: MlflowClient,
) -> None:
    monkeypatch.setattr(studies, "HEARTBEAT_S", 1)
    monkeypatch.setattr(studies, "GRACE_S", 2)
    run_id = connections.tracking.start_run(workload.name, None, {})
    with open_study(connections, "dying", OBJECTIVES, SNAPSHOT) as study, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        lost = study.ask()
        tuning.suggest_parameters(workload, lost)
        lost.set_user_attr("run_id", run_id)
        # One heartbeat, as of a process that died after it.
        study._storage.record_heartbeat(lost._trial_id)  # type: ignore[attr-defined]  # only a process that runs a trial beats
    tuned, _ = tune(connections, workload, columns, study="dying", trials=1)
    with open_study(connections, "dying", OBJECTIVES, SNAPSHOT) as study:
        trials = study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    assert trials[1].params == trials[0].params == tuned.parameters
    assert client.get_run(run_id).info.status == "KILLED"


# Threads stand for processes here: one ends the other's `catch_warnings`.
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_workers_at_once_make_exactly_the_wanted_number_of_trials(
    connections: Connections, workload: Workload, columns: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(*_: object, **__: object) -> object:
        raise TrainingFailed(workload.name, "fit", "no matter")

    monkeypatch.setattr(tuning, "fit_model", score)
    run_id = connections.tracking.start_run(workload.name, None, {})

    def work(number: int) -> None:
        run_trials(
            connections,
            workload,
            columns,
            study_name="crowded",
            snapshot=SNAPSHOT,
            objectives=("mae",),
            trials=7,
            run_id=run_id,
            worker=number,
        )

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    with open_study(connections, "crowded", ("mae",), SNAPSHOT) as study:
        assert len(study.trials) == 7
        assert len({tuple(trial.params.values()) for trial in study.trials}) == 7


def test_study_opens_in_optuna_dashboard(connections: Connections) -> None:
    with open_study(connections, "shown", ("mae",), SNAPSHOT):
        pass
    # The address as the README gives it.
    address = make_url(connections.database_url).set(drivername="postgresql+psycopg")
    shown = address.render_as_string(hide_password=False)
    shown += f"{'&' if '?' in shown else '?'}options=-csearch_path%3D{studies.SCHEMA}"
    storage = optuna.storages.RDBStorage(shown)
    try:
        assert "shown" in optuna.get_all_study_names(storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_objectives_are_those_of_the_task(workload: Workload) -> None:
    assert list_objectives(workload) == OBJECTIVES
    assert list_objectives(workload, ("mape", "mape")) == ("mape",)
    assert list_objectives(get_workload("failures")) == ("log_loss", "brier")
    with pytest.raises(ParameterRejected, match="known for 'failures' are log_loss, brier"):
        list_objectives(get_workload("failures"), ("mae",))


@pytest.mark.parametrize("trials", [0, -3])
def test_no_trials_are_refused(connections: Connections, workload: Workload, columns: Columns, trials: int) -> None:
    with pytest.raises(ParameterRejected, match=rf"trials={trials} is not allowed: a whole number from 1"):
        tune(connections, workload, columns, study="refused", trials=trials)
