"""Plots of a run: loss, predicted against actual, residuals; of a search, its Pareto front."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.contract import Contract
from training.sequence import BASELINE_NAME, Part

_INK, _MODEL, _BASELINE = "#1f2933", "#0b6e99", "#d9822b"
_SHOWN_ROWS = 400


def write_plots(
    folder: Path,
    contract: Contract,
    history: Mapping[str, list[float]],
    holdout: Part,
    predictions: NDArray[np.float64],
) -> list[Path]:
    """Write the run's plots as PNG files into `folder`; `predictions` `(rows,)` belong to `holdout`."""
    unit = contract.column(contract.target).unit
    label = f"{contract.target} ({unit})" if unit else contract.target
    return [
        _save(_plot_loss(history), folder / "loss.png"),
        _save(_plot_series(label, holdout, predictions), folder / "predicted_against_actual.png"),
        _save(_plot_residuals(label, holdout, predictions), folder / "residuals.png"),
    ]


def write_front(
    folder: Path, objectives: Sequence[str], values: NDArray[np.float64], is_in_front: NDArray[np.bool_], picked: int
) -> Path:
    """Write the trials' errors `(trials, objectives)`, pair by pair, as a PNG file; `picked` is the chosen row."""
    pairs = list(combinations(range(len(objectives)), 2))
    figure = Figure(figsize=(4.2 * len(pairs), 4), layout="constrained")
    for axes, (across, up) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for chosen, colour, title in ((~is_in_front, _BASELINE, "dominated"), (is_in_front, _MODEL, "Pareto front")):
            axes.scatter(values[chosen, across], values[chosen, up], s=18, color=colour, label=title)
        place = [values[picked, across]], [values[picked, up]]
        axes.scatter(*place, s=90, facecolors="none", edgecolors=_INK, label="picked")
        axes.set(xlabel=f"validation {objectives[across]}", ylabel=f"validation {objectives[up]}")
    axes.legend(frameon=False)
    return _save(figure, folder / "pareto_front.png")


def _plot_loss(history: Mapping[str, list[float]]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, colour, title in (("loss", _BASELINE, "training"), ("val_loss", _MODEL, "validation")):
        values = history[name]
        axes.plot(range(1, len(values) + 1), values, color=colour, label=title, marker="o", markersize=3)
    best = int(np.argmin(history["val_loss"]))
    axes.axvline(best + 1, color=_INK, linewidth=0.8, linestyle=":", label=f"best, epoch {best + 1}")
    axes.set(xlabel="epoch", ylabel="loss", title="Loss per epoch")
    axes.legend(frameon=False)
    return figure


def _plot_series(label: str, holdout: Part, predictions: NDArray[np.float64]) -> Figure:
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    series, scatter = figure.subplots(1, 2, width_ratios=[2.2, 1])
    shown = slice(-_SHOWN_ROWS, None)
    series.plot(holdout.times[shown], holdout.targets[shown], color=_INK, linewidth=1.2, label="actual")
    series.plot(holdout.times[shown], predictions[shown], color=_MODEL, linewidth=1, label="predicted")
    series.set(ylabel=label, title=f"Hold-out, last {len(holdout.targets[shown])} rows")
    series.tick_params(axis="x", rotation=30)
    series.legend(frameon=False)
    scatter.scatter(holdout.targets, predictions, s=6, color=_MODEL, alpha=0.6)
    ends = [float(holdout.targets.min()), float(holdout.targets.max())]
    scatter.plot(ends, ends, color=_INK, linewidth=0.8, linestyle=":")
    scatter.set(xlabel=f"actual {label}", ylabel=f"predicted {label}")
    return figure


def _plot_residuals(label: str, holdout: Part, predictions: NDArray[np.float64]) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    over_time, histogram = figure.subplots(1, 2, width_ratios=[2.2, 1])
    residuals = predictions - holdout.targets
    over_time.axhline(0, color=_INK, linewidth=0.8)
    over_time.scatter(holdout.times, residuals, s=6, color=_MODEL)
    over_time.set(ylabel=f"predicted - actual, {label}", title="Residuals on the hold-out")
    over_time.tick_params(axis="x", rotation=30)
    baseline = holdout.baseline - holdout.targets
    bins = np.histogram_bin_edges(np.concatenate([residuals, baseline]), bins=40)
    histogram.hist(baseline, bins=bins, color=_BASELINE, alpha=0.5, label=BASELINE_NAME)
    histogram.hist(residuals, bins=bins, color=_MODEL, alpha=0.6, label="model")
    histogram.set(xlabel=f"predicted - actual, {label}", ylabel="rows")
    histogram.legend(frameon=False)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure.savefig(path, dpi=110)
    return path
