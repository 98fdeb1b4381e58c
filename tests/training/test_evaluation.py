import numpy as np
import pytest
from sklearn import metrics

from training.evaluation import LOSSES, SMALLEST_DENOMINATOR, measure_errors


def test_errors_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    targets = generator.lognormal(9.0, 1.0, 300)
    predictions = targets * generator.normal(1.0, 0.05, 300)
    errors = measure_errors(targets, predictions)
    assert errors["mae"] == pytest.approx(metrics.mean_absolute_error(targets, predictions))
    assert errors["rmse"] == pytest.approx(metrics.root_mean_squared_error(targets, predictions))
    assert errors["mape"] == pytest.approx(100 * metrics.mean_absolute_percentage_error(targets, predictions))


def test_percentage_error_of_a_zero_target_is_clamped_and_finite() -> None:
    errors = measure_errors(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    assert errors["mape"] == pytest.approx(50.0 / SMALLEST_DENOMINATOR)


@pytest.mark.parametrize("metric", sorted(LOSSES))
def test_the_mean_loss_orders_models_as_the_metric_does(metric: str) -> None:
    generator = np.random.default_rng(1)
    targets = generator.normal(10.0, 1.0, 100)
    near, far = targets + 0.1 * generator.normal(size=100), targets + 0.5 * generator.normal(size=100)
    assert LOSSES[metric](targets, near).mean() < LOSSES[metric](targets, far).mean()
    assert measure_errors(targets, near)[metric] < measure_errors(targets, far)[metric]
