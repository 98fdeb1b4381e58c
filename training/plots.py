"""Plots of a run: loss, predictions, residuals, calibration, backtest, slices."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.contract import Contract
from training.backtest import Backtest
from training.calibration import Calibration
from training.parts import FloatArray, Part
from training.scorecard import Scorecard

INK_COLOUR, MODEL_COLOUR, BASELINE_COLOUR = "#1f2933", "#0b6e99", "#d9822b"
_SHOWN_ROWS = 400


def write_plots(
    folder: Path,
    contract: Contract,
    history: Mapping[str, list[float]],
    holdout: Part,
    predictions: FloatArray,
    baseline: tuple[str, FloatArray],
    scorecard: Scorecard,
) -> list[Path]:
    """Write the run's plots as PNG files into `folder`.

    `predictions` and the named `baseline` `(rows, outputs)` belong to `holdout`; of several steps ahead the last is
    shown. Predicted values and residuals are those of a regression.
    """
    written = [save_figure(_plot_loss(history), folder / "loss.png")]
    if scorecard.calibration is not None:
        written.append(save_figure(_plot_calibration(scorecard.calibration), folder / "calibration.png"))
    if scorecard.backtest is not None:
        written.append(save_figure(_plot_backtest(scorecard.metric, scorecard.backtest), folder / "backtest.png"))
    if scorecard.slices:
        written.append(save_figure(_plot_slices(scorecard), folder / "slices.png"))
    if contract.task != "regression" or contract.kind == "ranking":
        return written
    unit = contract.column(contract.target).unit
    label = f"{contract.target} ({unit})" if unit else contract.target
    across = np.arange(holdout.rows) if holdout.ends is None else holdout.ends
    actual, predicted, name, naive = holdout.targets[:, -1], predictions[:, -1], baseline[0], baseline[1][:, -1]
    return [
        *written,
        save_figure(_plot_series(label, across, actual, predicted), folder / "predicted_against_actual.png"),
        save_figure(
            _plot_residuals(label, across, predicted - actual, (name, naive - actual)), folder / "residuals.png"
        ),
    ]


def _plot_loss(history: Mapping[str, list[float]]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, colour, title in (("loss", BASELINE_COLOUR, "training"), ("val_loss", MODEL_COLOUR, "validation")):
        values = history[name]
        axes.plot(range(1, len(values) + 1), values, color=colour, label=title, marker="o", markersize=3)
    best = int(np.argmin(history["val_loss"]))
    axes.axvline(best + 1, color=INK_COLOUR, linewidth=0.8, linestyle=":", label=f"best, epoch {best + 1}")
    axes.set(xlabel="epoch", ylabel="loss", title="Loss per epoch")
    axes.legend(frameon=False)
    return figure


def _plot_series(label: str, across: NDArray[np.generic], actual: FloatArray, predicted: FloatArray) -> Figure:
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    series, scatter = figure.subplots(1, 2, width_ratios=[2.2, 1])
    shown = slice(-_SHOWN_ROWS, None)
    series.plot(across[shown], actual[shown], color=INK_COLOUR, linewidth=1.2, label="actual")
    series.plot(across[shown], predicted[shown], color=MODEL_COLOUR, linewidth=1, label="predicted")
    series.set(ylabel=label, title=f"Hold-out, last {len(actual[shown])} rows")
    series.tick_params(axis="x", rotation=30)
    series.legend(frameon=False)
    scatter.scatter(actual, predicted, s=6, color=MODEL_COLOUR, alpha=0.6)
    ends = [float(actual.min()), float(actual.max())]
    scatter.plot(ends, ends, color=INK_COLOUR, linewidth=0.8, linestyle=":")
    scatter.set(xlabel=f"actual {label}", ylabel=f"predicted {label}")
    return figure


def _plot_residuals(
    label: str, across: NDArray[np.generic], residuals: FloatArray, baseline: tuple[str, FloatArray]
) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    over_time, histogram = figure.subplots(1, 2, width_ratios=[2.2, 1])
    over_time.axhline(0, color=INK_COLOUR, linewidth=0.8)
    over_time.scatter(across, residuals, s=6, color=MODEL_COLOUR)
    over_time.set(ylabel=f"predicted - actual, {label}", title="Residuals on the hold-out")
    over_time.tick_params(axis="x", rotation=30)
    name, naive = baseline
    bins = np.histogram_bin_edges(np.concatenate([residuals, naive]), bins=40)
    histogram.hist(naive, bins=bins, color=BASELINE_COLOUR, alpha=0.5, label=name)
    histogram.hist(residuals, bins=bins, color=MODEL_COLOUR, alpha=0.6, label="model")
    histogram.set(xlabel=f"predicted - actual, {label}", ylabel="rows")
    histogram.legend(frameon=False)
    return figure


def _plot_calibration(calibration: Calibration) -> Figure:
    figure = Figure(figsize=(6, 6), layout="constrained")
    curve, counts = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    curve.plot([0, 1], [0, 1], color=INK_COLOUR, linewidth=0.8, linestyle=":", label="as often as said")
    said = [one.predicted for one in calibration.bins]
    curve.plot(
        said, [one.observed for one in calibration.bins], color=MODEL_COLOUR, marker="o", markersize=4, label="model"
    )
    curve.set(
        ylabel="share that came",
        title=f"Calibration: expected error {calibration.expected_error:.3f}, Brier score {calibration.brier:.3f}",
    )
    curve.legend(frameon=False)
    for one in calibration.bins:
        counts.bar(
            one.low, one.rows, width=one.high - one.low, align="edge", color=MODEL_COLOUR, alpha=0.6, edgecolor="white"
        )
    counts.set(xlabel="probability said", ylabel="rows", yscale="log", xlim=(0, 1))
    return figure


def _plot_backtest(metric: str, backtest: Backtest) -> Figure:
    """The metric by stretch of time; by steps ahead too where there are several."""
    several = len(backtest.steps) > 1
    figure = Figure(figsize=(12 if several else 8, 4), layout="constrained")
    panels = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    places = np.arange(len(backtest.folds))
    sides = ((-0.2, MODEL_COLOUR, "model"), (0.2, BASELINE_COLOUR, backtest.baseline))
    for side, colour, name in sides:
        values = [(one.model if name == "model" else one.baseline)[metric] for one in backtest.folds]
        panels[0].bar(places + side, values, width=0.38, color=colour, alpha=0.85, label=name)
    labels = [f"{one.first_at[:10]}\nto {one.last_at[:10]}\n{one.rows} rows" for one in backtest.folds]
    panels[0].set_xticks(places, labels, fontsize=8)
    panels[0].set(ylabel=metric, title="Hold-out by stretch of time, weights fixed")
    panels[0].legend(frameon=False)
    if several:
        steps = [one.step for one in backtest.steps]
        panels[1].plot(
            steps, [one.model[metric] for one in backtest.steps], color=MODEL_COLOUR, marker="o", label="model"
        )
        naive = [one.baseline[metric] for one in backtest.steps]
        panels[1].plot(steps, naive, color=BASELINE_COLOUR, marker="o", label=backtest.baseline)
        panels[1].set(xlabel="steps ahead", ylabel=metric, title="By steps ahead")
        panels[1].legend(frameon=False)
    return figure


def _plot_slices(scorecard: Scorecard) -> Figure:
    """The deciding metric on each slice with its interval, beside the baseline's; the first line is the whole."""
    metric = scorecard.metric
    whole = scorecard.baselines[scorecard.improvement.baseline]
    lines = [("all", scorecard.model, scorecard.intervals, whole)]
    lines += [
        (f"{one.name} ({one.rows} rows)", one.model, one.intervals, one.baseline)
        for one in scorecard.slices
        if one.rows
    ]
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, (_, model, intervals, baseline) in enumerate(lines):
        if metric in intervals:
            axes.plot(intervals[metric], [place, place], color=MODEL_COLOUR, linewidth=2)
        axes.plot([model[metric]], [place], "o", color=MODEL_COLOUR, label="model" if place == 0 else None)
        axes.plot(
            [baseline[metric]],
            [place],
            "D",
            color=BASELINE_COLOUR,
            markersize=5,
            label="baseline" if place == 0 else None,
        )
    axes.set_yticks(range(len(lines)), [line[0] for line in lines])
    axes.invert_yaxis()
    axes.set(xlabel=f"{metric}, {scorecard.confidence:.0%} interval", title="Slices of the hold-out")
    axes.legend(frameon=False)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG file; returns its path."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure.savefig(path, dpi=110)
    return path
