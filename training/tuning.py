"""Tuning: a search of a workload's parameters by Optuna, on folds before the hold-out and never on the hold-out.

The study is kept in the platform's PostgreSQL: it survives a restart, goes on where it was, is worked on by any number
of processes at once, and opens in optuna-dashboard. Each trial is a child run in MLflow.

A trial is pruned while it runs. With one objective Optuna's median pruner looks at it after every epoch of every fold:
the error beside the baseline's on the part that stops the fit. With several Optuna cannot prune; then a trial ends
after a fold on which an earlier one was clearly better in every objective.
"""

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from core.connections import Connections
from core.contract import Contract
from core.errors import ParameterRejected, StepFailed
from core.tracking import Tracking
from training.evaluation import LOSSES
from training.fit import EpochWatch, Fitted, fit_model, predict
from training.folds import build_folds
from training.kinds import get_kind
from training.parts import Columns, FloatArray, Part, Parts
from training.studies import (
    FAILURE_ATTRIBUTE,
    FOLDS_ATTRIBUTE,
    RUN_ATTRIBUTE,
    STARTUP_TRIALS,
    Turn,
    count_trials,
    open_study,
)
from workloads.declaration import Parameter, Workload

logger = logging.getLogger(__name__)

_LOG_SCALE_RATIO = 50
_FIXED = ("seed",)
_CLEARLY = 1.25
"""A trial whose errors are all this many times those of an earlier one is clearly dominated."""
_LOOK_S = 1.0
_SEED_STRIDE = 10_007


def list_objectives(workload: Workload, given: Sequence[str] = ()) -> tuple[str, ...]:
    """What is minimised: `given`, else every error of the task; raises ParameterRejected for an unknown one."""
    known = (workload.gate.metric,) if workload.kind == "ranking" else tuple(LOSSES[workload.task])
    for name in given:
        if name not in known:
            raise ParameterRejected("objectives", name, f"known for {workload.name!r} are {', '.join(known)}")
    return tuple(dict.fromkeys(given)) or known


def run_trials(
    connections: Connections,
    workload: Workload,
    columns: Columns,
    *,
    study_name: str,
    snapshot: str,
    objectives: Sequence[str],
    trials: int,
    run_id: str,
    worker: int = 0,
) -> None:
    """Run trials of the study, with whoever else does, until it has `trials` in all.

    `columns` are those of the snapshot, `(rows,)`. A trial that cannot be completed is failed and the search goes on.
    Each worker has a number of its own, so that they draw different points. Raises ParameterRejected.
    """
    if trials < 1:
        raise ParameterRejected("trials", trials, "a whole number from 1")
    seed = int(workload.resolve_parameters()["seed"]) + worker * _SEED_STRIDE
    with open_study(connections, study_name, objectives, snapshot, seed) as study, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        while True:
            turn = Turn(connections, study_name)

            def run(trial: optuna.Trial, turn: Turn = turn) -> tuple[float, ...]:
                turn.release()
                return _run_trial(connections.tracking, workload, columns, objectives, trial, run_id)

            try:
                optuna.storages.fail_stale_trials(study)
                ended, running = count_trials(study)
                if ended >= trials:
                    return
                if ended + running < trials:
                    study.optimize(run, n_trials=1, catch=(StepFailed,))
                    continue
            finally:
                turn.release()
            # What others run may yet lose its process.
            time.sleep(_LOOK_S)


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


def _run_trial(
    tracking: Tracking,
    workload: Workload,
    columns: Columns,
    objectives: Sequence[str],
    trial: optuna.Trial,
    run_id: str,
) -> tuple[float, ...]:
    parameters = suggest_parameters(workload, trial)
    tags = {"mlflow.parentRunId": run_id, "millrace.trial": str(trial.number)}
    child = tracking.start_run(workload.name, None, tags)
    trial.set_user_attr(RUN_ATTRIBUTE, child)
    status = "FAILED"
    try:
        tracking.log_parameters(child, dict(parameters))
        errors, fitted = _score_folds(workload, columns, parameters, objectives, trial)
        tracking.log_metric_history(child, fitted.history)
        for number, found in enumerate(errors, 1):
            tracking.log_metrics(child, {f"fold_{number}_{name}": value for name, value in found.items()})
        means = _average(errors, objectives)
        tracking.log_metrics(child, {f"validation_{name}": value for name, value in means.items()})
        with TemporaryDirectory(prefix="millrace-trial-") as folder:
            checkpoint = Path(folder) / "checkpoint.keras"
            fitted.model.save(checkpoint)
            tracking.log_artifact(child, checkpoint, "checkpoint")
        status = "FINISHED"
    except optuna.TrialPruned as pruned:
        tracking.set_tags(child, {"millrace.pruned": str(pruned)})
        status = "KILLED"
        raise
    except StepFailed as error:
        tracking.set_tags(child, {"millrace.error": error.sentence[:5000]})
        trial.set_user_attr(FAILURE_ATTRIBUTE, error.sentence[:1000])
        raise
    finally:
        tracking.finish_run(child, status)
    logger.info("trial finished", extra={"trial": trial.number, **means})
    return tuple(means[name] for name in objectives)


def _score_folds(
    workload: Workload,
    columns: Columns,
    parameters: Mapping[str, int | float],
    objectives: Sequence[str],
    trial: optuna.Trial,
) -> tuple[list[dict[str, float]], Fitted]:
    """The errors on each fold, and the model of the last."""
    errors: list[dict[str, float]] = []
    ratios: list[float] = []
    fitted: Fitted | None = None
    for contract, parts in build_folds(workload, workload.build_contract(parameters), columns):
        if errors and len(objectives) > 1:
            _end_if_dominated(trial, objectives, errors)
        watch = _build_watch(workload, contract, parts, objectives, trial, ratios) if len(objectives) == 1 else None
        fitted = fit_model(workload, contract, parameters, parts.train, parts.validation, watch=watch)
        predictions = predict(fitted.model, parts.holdout.inputs)
        errors.append(_compute_errors(contract, objectives, parts.holdout, predictions))
        trial.set_user_attr(FOLDS_ATTRIBUTE, errors)
    if fitted is None:
        raise ValueError("no fold")
    return errors, fitted


def _build_watch(
    workload: Workload,
    contract: Contract,
    parts: Parts,
    objectives: Sequence[str],
    trial: optuna.Trial,
    ratios: list[float],
) -> EpochWatch:
    """Reports to the pruner after each epoch, and ends a trial that it gives up.

    The value is the mean over the folds so far of the least error beside the baseline's, so that folds of different
    difficulty, and the present one's beginning, are comparable.
    """
    validation = parts.validation
    naive = next(iter(get_kind(contract).predict_baselines(contract, parts.train, validation).values()))
    baseline = _compute_errors(contract, objectives, validation, naive)[objectives[0]] or 1.0
    limits = workload.parameters["max_epochs"]
    fold = len(ratios)
    steps_a_fold = int((limits.search or (limits.minimum, limits.maximum))[1])
    ratios.append(np.inf)

    def watch(epoch: int, answer: Callable[[NDArray[np.float32]], FloatArray]) -> None:
        errors = _compute_errors(contract, objectives, validation, answer(validation.inputs))
        ratios[fold] = min(ratios[fold], errors[objectives[0]] / baseline)
        if not np.isfinite(ratios[fold]):
            return
        trial.report(float(np.mean(ratios)), fold * steps_a_fold + epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"fold {fold + 1}, epoch {epoch}: worse than the median of the trials before")

    return watch


def _end_if_dominated(trial: optuna.Trial, objectives: Sequence[str], errors: Sequence[Mapping[str, float]]) -> None:
    """Raises TrialPruned where an earlier trial was clearly better in every objective on the same folds."""
    complete = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < STARTUP_TRIALS:
        return
    mine = _average(errors, objectives)
    for other in complete:
        theirs = _average(other.user_attrs[FOLDS_ATTRIBUTE][: len(errors)], objectives)
        if all(mine[name] > _CLEARLY * theirs[name] for name in objectives):
            raise optuna.TrialPruned(f"fold {len(errors)}: trial {other.number} was clearly better in every objective")


def _compute_errors(
    contract: Contract, objectives: Sequence[str], part: Part, predictions: FloatArray
) -> dict[str, float]:
    kind = get_kind(contract)
    means = {name: float(kind.compute_losses(contract, name, part.targets, predictions).mean()) for name in objectives}
    return {name: float(np.sqrt(value)) if name == "rmse" else value for name, value in means.items()}


def _average(errors: Sequence[Mapping[str, float]], objectives: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean([found[name] for found in errors])) for name in objectives}
