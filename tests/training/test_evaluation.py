from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from core.contract import Column, Contract, Key, Task, build_contract
from core.errors import ParameterRejected
from training.evaluation import LOSSES, SMALLEST_DENOMINATOR, compute_losses, measure, measure_errors

FloatArray = NDArray[np.float64]
CLASSES = ("a", "b", "c")
DECIDING = [(task, metric) for task, losses in LOSSES.items() for metric in losses]


def build(task: Task) -> Contract:
    return build_contract(
        "things",
        description="",
        kind="tabular",
        columns=(Column(name="x", dtype="float"), Column(name="y", dtype="float")),
        key=Key(),
        target="y",
        features=("x",),
        task=task,
        classes=CLASSES if task == "multiclass" else (),
    )


def draw(task: Task, noise: float, rows: int = 300) -> tuple[FloatArray, FloatArray]:
    """Targets, and predictions that are the worse the larger `noise` is; `(rows, outputs)`."""
    generator = np.random.default_rng(1)
    if task == "regression":
        targets = generator.lognormal(2.0, 1.0, (rows, 1))
        return targets, targets * (1.0 + noise * generator.normal(size=(rows, 1)))
    if task == "binary":
        targets = (generator.random((rows, 1)) < 0.2).astype(np.float64)
        score = 2.0 * targets - 1.0 + noise * generator.normal(size=(rows, 1))
        return targets, 1.0 / (1.0 + np.exp(-score))
    targets = np.eye(3)[generator.integers(0, 3, rows)]
    score = np.exp(2.0 * targets + noise * generator.normal(size=(rows, 3)))
    return targets, score / score.sum(axis=1, keepdims=True)


def expect(task: Task, targets: FloatArray, predictions: FloatArray) -> Mapping[str, float]:
    """The metrics as scikit-learn computes them."""
    if task == "regression":
        return {
            "mae": metrics.mean_absolute_error(targets, predictions),
            "rmse": metrics.root_mean_squared_error(targets, predictions),
            "mape": 100 * metrics.mean_absolute_percentage_error(targets, predictions),
            "r2": metrics.r2_score(targets, predictions),
        }
    if task == "binary":
        came, said = targets[:, 0], predictions[:, 0]
        return {
            "log_loss": metrics.log_loss(came, said),
            "brier": metrics.brier_score_loss(came, said),
            "pr_auc": metrics.average_precision_score(came, said),
            "roc_auc": metrics.roc_auc_score(came, said),
        }
    came, said = targets.argmax(axis=1), predictions.argmax(axis=1)
    return {
        "log_loss": metrics.log_loss(came, predictions),
        "brier": float(np.mean(((predictions - targets) ** 2).sum(axis=1))),
        "accuracy": metrics.accuracy_score(came, said),
        "macro_f1": metrics.f1_score(came, said, average="macro"),
    }


@pytest.mark.parametrize("task", sorted(LOSSES))
def test_metrics_agree_with_scikit_learn(task: Task) -> None:
    targets, predictions = draw(task, 0.5)
    found, expected = measure(build(task), targets, predictions), expect(task, targets, predictions)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_percentage_error_of_a_zero_target_is_clamped_and_finite() -> None:
    errors = measure_errors(np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]]))
    assert errors["mape"] == pytest.approx(50.0 / SMALLEST_DENOMINATOR)


def test_logarithmic_loss_of_a_certain_mistake_is_finite() -> None:
    losses = compute_losses(build("binary"), "log_loss", np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]]))
    assert np.isfinite(losses).all()
    assert (losses > 10).all()


def test_metrics_that_one_class_alone_leaves_undefined_are_left_out() -> None:
    found = measure(build("binary"), np.zeros((5, 1)), np.full((5, 1), 0.1))
    assert set(found) == {"log_loss", "brier"}


@pytest.mark.parametrize(("task", "metric"), DECIDING)
def test_the_mean_loss_orders_models_as_the_metric_does(task: Task, metric: str) -> None:
    contract = build(task)
    (targets, near), (_, far) = draw(task, 0.1), draw(task, 1.5)
    losses = [compute_losses(contract, metric, targets, predictions) for predictions in (near, far)]
    assert losses[0].shape == (len(targets),)
    assert losses[0].mean() < losses[1].mean()
    assert measure(contract, targets, near)[metric] < measure(contract, targets, far)[metric]


def test_metric_without_a_loss_a_row_cannot_decide() -> None:
    with pytest.raises(ParameterRejected, match="metric='pr_auc' is not allowed: of a binary task log_loss, brier can"):
        compute_losses(build("binary"), "pr_auc", np.zeros((1, 1)), np.zeros((1, 1)))
