"""The end of a search: one trial of the Pareto front is picked, and the front is written down."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from core.errors import ParameterRejected, TrainingFailed
from core.tracking import Tracking
from training.study_plots import write_study_plots
from workloads.declaration import Workload

_WEIGHT_EPSILON = 1e-12
Picker = Callable[[Sequence[Sequence[float]]], int]


@dataclass(frozen=True)
class Tuned:
    """The picked trial: its parameters, its errors on the folds, and the CSV of the Pareto front."""

    study: str
    trials: int
    pruned: int
    parameters: Mapping[str, int | float]
    errors: Mapping[str, float]
    front_csv: str


def get_picker(pick: str, objectives: Sequence[str]) -> Picker:
    """The strategy that picks one row of `(trials, objectives)`, by name; raises ParameterRejected.

    `min_mae` takes the smallest of that error, and so for each objective; `weighted` the smallest mean of all, each
    scaled to 0..1 over the front.
    """
    strategies = {f"min_{name}": _pick_smallest(position) for position, name in enumerate(objectives)}
    strategies["weighted"] = _pick_weighted
    if pick not in strategies:
        raise ParameterRejected("pick", pick, f"allowed are {', '.join(strategies)}")
    return strategies[pick]


def _pick_smallest(position: int) -> Picker:
    return lambda rows: int(np.asarray(rows)[:, position].argmin())


def _pick_weighted(rows: Sequence[Sequence[float]]) -> int:
    values = np.asarray(rows)
    spread = np.maximum(np.ptp(values, axis=0), _WEIGHT_EPSILON)
    return int(((values - values.min(axis=0)) / spread).mean(axis=1).argmin())


def conclude_study(
    tracking: Tracking, workload: Workload, study: optuna.Study, objectives: Sequence[str], pick: str, run_id: str
) -> Tuned:
    """Pick one of the study's front and log front, plots and pick under the run; raises TrainingFailed without one."""
    picker = get_picker(pick, objectives)
    front = study.best_trials
    if not front:
        raise TrainingFailed(workload.name, "tune", "no trial succeeded; the child runs say why")
    chosen = front[picker([trial.values for trial in front])]
    with TemporaryDirectory(prefix="millrace-tuning-") as folder:
        path = Path(folder) / "pareto_front.csv"
        _write_front(path, objectives, front, chosen)
        text = path.read_text(encoding="utf-8")
        write_study_plots(Path(folder), objectives, study.trials, {trial.number for trial in front}, chosen.number)
        tracking.log_artifacts(run_id, Path(folder), "tuning")
    errors = dict(zip(objectives, chosen.values, strict=True))
    tracking.log_metrics(run_id, {f"validation_{name}": value for name, value in errors.items()})
    tracking.log_document(run_id, {"trial": chosen.number, "parameters": chosen.params}, "tuning/picked.json")
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
    return Tuned(study.study_name, len(study.trials), pruned, dict(chosen.params), errors, text)


def _write_front(path: Path, objectives: Sequence[str], front: Sequence[FrozenTrial], chosen: FrozenTrial) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = list(front[0].params)
        writer.writerow(["trial", *objectives, *names, "is_picked"])
        for trial in front:
            picked = trial.number == chosen.number
            writer.writerow([trial.number, *trial.values, *(trial.params[name] for name in names), picked])
