"""Plots of a search: its trials one after another, its Pareto front, and what each parameter did."""

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from training.parts import FloatArray, Mask
from training.plots import BASELINE_COLOUR, INK_COLOUR, MODEL_COLOUR, save_figure

_COLUMNS = 4
_LOG_SCALE_RATIO = 50


def write_study_plots(
    folder: Path, objectives: Sequence[str], trials: Sequence[FrozenTrial], front: AbstractSet[int], picked: int
) -> None:
    """Write `history.png`, `parameters.png` and, of several objectives, `pareto_front.png` into the folder.

    `front` are the numbers of the trials that none dominates, `picked` is the chosen one's.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = np.array([trial.values for trial in complete], dtype=np.float64)
    numbers = np.array([trial.number for trial in complete])
    is_in_front = np.isin(numbers, list(front))
    row = int(np.flatnonzero(numbers == picked)[0])
    pruned = [trial.number for trial in trials if trial.state == TrialState.PRUNED]
    save_figure(_plot_history(objectives, numbers, values, pruned, row), folder / "history.png")
    save_figure(_plot_parameters(objectives[0], complete, values[:, 0], row), folder / "parameters.png")
    if len(objectives) > 1:
        save_figure(_plot_front(objectives, values, is_in_front, row), folder / "pareto_front.png")


def _plot_history(
    objectives: Sequence[str], numbers: FloatArray, values: FloatArray, pruned: Sequence[int], picked: int
) -> Figure:
    figure = Figure(figsize=(4.2 * len(objectives) + 1, 4), layout="constrained")
    for place, axes in enumerate(figure.subplots(1, len(objectives), squeeze=False)[0]):
        found = values[:, place]
        axes.scatter(numbers, found, s=18, color=MODEL_COLOUR, label="trial")
        axes.step(numbers, np.minimum.accumulate(found), where="post", color=INK_COLOUR, linewidth=0.9, label="best")
        axes.scatter([numbers[picked]], [found[picked]], s=90, facecolors="none", edgecolors=INK_COLOUR, label="picked")
        for number in pruned:
            axes.axvline(number, color=BASELINE_COLOUR, linewidth=0.8, label="pruned" if number == pruned[0] else None)
        axes.set(xlabel="trial", ylabel=f"{objectives[place]}, mean of the folds")
    axes.legend(frameon=False)
    return figure


def _plot_parameters(objective: str, trials: Sequence[FrozenTrial], values: FloatArray, picked: int) -> Figure:
    names = list(trials[0].params)
    across = min(_COLUMNS, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(3.2 * across, 2.8 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for name, axes in zip(names, panels, strict=False):
        points = np.array([trial.params[name] for trial in trials], dtype=np.float64)
        axes.scatter(points, values, s=16, color=MODEL_COLOUR)
        axes.scatter([points[picked]], [values[picked]], s=80, facecolors="none", edgecolors=INK_COLOUR)
        if points.min() > 0 and points.max() / points.min() >= _LOG_SCALE_RATIO:
            axes.set_xscale("log")
        axes.set(xlabel=name, ylabel=objective)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return figure


def _plot_front(objectives: Sequence[str], values: FloatArray, is_in_front: Mask, picked: int) -> Figure:
    pairs = list(combinations(range(len(objectives)), 2))
    figure = Figure(figsize=(4.2 * len(pairs), 4), layout="constrained")
    for axes, (across, up) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        sides = ((~is_in_front, BASELINE_COLOUR, "dominated"), (is_in_front, MODEL_COLOUR, "Pareto front"))
        for chosen, colour, title in sides:
            axes.scatter(values[chosen, across], values[chosen, up], s=18, color=colour, label=title)
        place = [values[picked, across]], [values[picked, up]]
        axes.scatter(*place, s=90, facecolors="none", edgecolors=INK_COLOUR, label="picked")
        axes.set(xlabel=f"{objectives[across]}, mean of the folds", ylabel=f"{objectives[up]}, mean of the folds")
    axes.legend(frameon=False)
    return figure
