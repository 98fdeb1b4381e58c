"""Tuning: a search of a workload's parameters by Optuna, on the validation part and never on the hold-out.

The study is kept in the platform's PostgreSQL: it survives a restart, goes on where it was, and opens in
optuna-dashboard. Each trial is a child run in MLflow.
"""

import csv
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import optuna
from numpy.typing import NDArray
from sqlalchemy import make_url
from sqlalchemy.schema import CreateSchema

from core.connections import Connections
from core.database import normalise_url
from core.errors import ParameterRejected, TrainingFailed
from training.evaluation import measure_errors
from training.fit import fit_model, predict
from training.plots import write_front
from training.sequence import build_part, split_part
from workloads.declaration import Parameter, Workload

logger = logging.getLogger(__name__)

OBJECTIVES = ("mae", "rmse", "mape")
_LOG_SCALE_RATIO = 50
_WEIGHT_EPSILON = 1e-12
_FIXED = ("seed",)
_SCHEMA = "tuning"
"""Optuna and the platform both keep a table `alembic_version`; each has its own schema of the database."""


@dataclass(frozen=True)
class Tuned:
    """The picked trial: its parameters, its errors on the validation part, and the files of the Pareto front."""

    study: str
    trials: int
    parameters: Mapping[str, int | float]
    errors: Mapping[str, float]
    front_csv: str


def tune_workload(
    connections: Connections,
    workload: Workload,
    columns: Mapping[str, NDArray[np.generic]],
    *,
    study_name: str,
    trials: int,
    pick: str,
    run_id: str,
) -> Tuned:
    """Run `trials` more trials of the study and pick one of its Pareto front; logged under the run `run_id`.

    `columns` are the snapshot's `(rows,)`. A trial whose loss is not finite is failed and the search goes on. Raises
    ParameterRejected for an unknown `pick`, and TrainingFailed when no trial succeeded.
    """
    picker = get_picker(pick)
    if trials < 1:
        raise ParameterRejected("trials", trials, "a whole number from 1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def run_trial(trial: optuna.Trial) -> tuple[float, ...]:
        parameters = suggest_parameters(workload, trial)
        contract = workload.build_contract(parameters)
        parts = split_part(contract, build_part(contract, columns), workload.split)
        tracking = connections.tracking
        child = tracking.start_run(
            workload.name, None, {"mlflow.parentRunId": run_id, "millrace.trial": str(trial.number)}
        )
        status = "FAILED"
        try:
            tracking.log_parameters(child, dict(parameters))
            fitted = fit_model(workload, contract, parameters, parts.train, parts.validation)
            errors = measure_errors(parts.validation.targets, predict(fitted.model, parts.validation.inputs))
            tracking.log_metric_history(child, fitted.history)
            tracking.log_metrics(child, {f"validation_{name}": value for name, value in errors.items()})
            with TemporaryDirectory(prefix="millrace-trial-") as folder:
                checkpoint = Path(folder) / "checkpoint.keras"
                fitted.model.save(checkpoint)
                tracking.log_artifact(child, checkpoint, "checkpoint")
            status = "FINISHED"
        finally:
            tracking.finish_run(child, status)
        logger.info("trial finished", extra={"trial": trial.number, **errors})
        return tuple(errors[name] for name in OBJECTIVES)

    with _open_storage(connections) as storage:
        study = optuna.create_study(
            study_name=study_name,
            storage=storage,
            directions=["minimize"] * len(OBJECTIVES),
            load_if_exists=True,
        )
        # A study that goes on must not draw the points of its beginning again.
        seed = int(workload.resolve_parameters()["seed"]) + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        study.optimize(run_trial, n_trials=trials, catch=(TrainingFailed,))
        return _conclude(connections, workload, study, picker, run_id)


@contextmanager
def _open_storage(connections: Connections) -> Iterator[optuna.storages.RDBStorage]:
    """The storage of the studies; its connections are closed at the end."""
    with connections.engine.begin() as connection:
        connection.execute(CreateSchema(_SCHEMA, if_not_exists=True))
    url = make_url(normalise_url(connections.database_url))
    url = url.update_query_dict({"options": f"-csearch_path={_SCHEMA}"})
    storage = optuna.storages.RDBStorage(url.render_as_string(hide_password=False))
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def suggest_parameters(workload: Workload, trial: optuna.Trial) -> dict[str, int | float]:
    """One point of the workload's search space; ranges that span orders of magnitude are searched on a log scale."""
    suggested = {
        name: _suggest(trial, name, parameter) for name, parameter in workload.parameters.items() if name not in _FIXED
    }
    return workload.resolve_parameters(suggested)


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> int | float:
    low, high = parameter.search or (parameter.minimum, parameter.maximum)
    is_log = low > 0 and high / low >= _LOG_SCALE_RATIO
    if isinstance(parameter.default, int):
        return trial.suggest_int(name, int(low), int(high), log=is_log)
    return trial.suggest_float(name, float(low), float(high), log=is_log)


def get_picker(pick: str) -> Callable[[Sequence[Sequence[float]]], int]:
    """The strategy that picks one row of `(trials, objectives)`, by name; raises ParameterRejected.

    `min_mae`, `min_rmse` and `min_mape` take the smallest of that error; `weighted` the smallest mean of the three,
    each scaled to 0..1 over the front.
    """
    strategies = {f"min_{name}": _pick_smallest(position) for position, name in enumerate(OBJECTIVES)}
    strategies["weighted"] = _pick_weighted
    if pick not in strategies:
        raise ParameterRejected("pick", pick, f"allowed are {', '.join(strategies)}")
    return strategies[pick]


def _pick_smallest(position: int) -> Callable[[Sequence[Sequence[float]]], int]:
    return lambda rows: int(np.asarray(rows)[:, position].argmin())


def _pick_weighted(rows: Sequence[Sequence[float]]) -> int:
    values = np.asarray(rows)
    spread = np.maximum(np.ptp(values, axis=0), _WEIGHT_EPSILON)
    return int(((values - values.min(axis=0)) / spread).mean(axis=1).argmin())


def _conclude(
    connections: Connections,
    workload: Workload,
    study: optuna.Study,
    picker: Callable[[Sequence[Sequence[float]]], int],
    run_id: str,
) -> Tuned:
    front = study.best_trials
    if not front:
        raise TrainingFailed(workload.name, "tune", "no trial succeeded; the child runs say why")
    chosen = front[picker([trial.values for trial in front])]
    tracking = connections.tracking
    with TemporaryDirectory(prefix="millrace-tuning-") as folder:
        path = Path(folder) / "pareto_front.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            names = list(front[0].params)
            writer.writerow(["trial", *OBJECTIVES, *names, "is_picked"])
            for trial in front:
                picked = trial.number == chosen.number
                writer.writerow([trial.number, *trial.values, *(trial.params[name] for name in names), picked])
        tracking.log_artifact(run_id, path, "tuning")
        text = path.read_text(encoding="utf-8")
        completed = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        picture = write_front(
            Path(folder),
            OBJECTIVES,
            np.array([trial.values for trial in completed]),
            np.array([trial.number in {one.number for one in front} for trial in completed]),
            next(row for row, trial in enumerate(completed) if trial.number == chosen.number),
        )
        tracking.log_artifact(run_id, picture, "tuning")
    errors = dict(zip(OBJECTIVES, chosen.values, strict=True))
    tracking.log_metrics(run_id, {f"validation_{name}": value for name, value in errors.items()})
    tracking.log_document(run_id, {"trial": chosen.number, "parameters": chosen.params}, "tuning/picked.json")
    return Tuned(study.study_name, len(study.trials), dict(chosen.params), errors, text)
