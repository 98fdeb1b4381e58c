"""Workload `prices`: its model's zero is persistence, its sample is the process that it says it is."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tests.workloads.reading import read_columns
from training.parts import Part, Parts
from training.sequence import PERSISTENCE, split_columns
from workloads.prices.sample import write_sample
from workloads.prices.workload import WORKLOAD

PARAMETERS = WORKLOAD.resolve_parameters({"sequence_length": 12, "hidden_size": 4})
CONTRACT = WORKLOAD.build_contract(PARAMETERS)
BuildModel = Callable[[NDArray[np.float32]], keras.Model]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    path = tmp_path / "prices.csv"
    write_sample(path, rows=300)
    return split_columns(CONTRACT, read_columns(CONTRACT, path), WORKLOAD.split)


def build(inputs: NDArray[np.float32]) -> keras.Model:
    return WORKLOAD.load_function("model")(CONTRACT, PARAMETERS, inputs)


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_untrained_model_predicts_the_last_close_at_every_level(parts: Parts, factor: float) -> None:
    holdout: Part = parts.holdout
    answers = build(parts.train.inputs).predict_on_batch((holdout.inputs * factor).astype(np.float32))
    np.testing.assert_allclose(answers, holdout.naive[PERSISTENCE] * factor, rtol=1e-6)


def test_scaling_is_that_of_the_training_windows(parts: Parts) -> None:
    inputs = parts.train.inputs
    model = build(inputs)
    scale = next(layer for layer in model.layers if layer.name == "scale")
    returns = np.diff(np.log(inputs.astype(np.float64)), axis=1)
    assert np.ravel(scale.mean) == pytest.approx(returns.mean(), abs=1e-9)
    assert np.ravel(scale.variance) == pytest.approx(returns.var(), rel=1e-6)


def test_a_step_of_one_in_the_score_is_one_deviation_of_the_log_return(parts: Parts) -> None:
    inputs = parts.train.inputs
    model = build(inputs)
    kernel, _ = model.get_layer("score").get_weights()
    model.get_layer("score").set_weights([kernel, np.ones(1, dtype=np.float32)])
    deviation = np.diff(np.log(inputs.astype(np.float64)), axis=1).std()
    answers = model.predict_on_batch(parts.holdout.inputs)
    np.testing.assert_allclose(answers, parts.holdout.naive[PERSISTENCE] * np.exp(deviation), rtol=1e-6)


def test_a_constant_series_is_answered_with_its_level() -> None:
    inputs = np.full((20, *CONTRACT.input_shape), 50.0, dtype=np.float32)
    np.testing.assert_allclose(build(inputs).predict_on_batch(inputs)[:, 0], 50.0, rtol=1e-6)


# --- sample ------------------------------------------------------------------------------------------------------


def test_sample_is_the_process_of_its_docstring(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    write_sample(path, rows=400, seed=11)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "Date,Close"
    draws = np.random.default_rng(11).standard_t(5, 400) * np.sqrt(3 / 5)
    variances, returns = [5e-4], []
    for draw in draws:
        returns.append(draw * variances[-1] ** 0.5)
        variances.append(1e-5 + 0.10 * returns[-1] * returns[-1] + 0.88 * variances[-1])
    closes = 10_000.0 * np.cumprod(np.exp(returns))
    for number, (line, close) in enumerate(zip(lines[1:], closes, strict=True)):
        day, _, text = line.partition(",")
        assert day == str(date(2018, 1, 1) + timedelta(days=number))
        assert float(text) == pytest.approx(close, abs=0.011)


def test_sample_is_positive_with_fat_tails_calm_and_stormy_weeks_and_no_trend_in_its_signs(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    write_sample(path)
    closes = np.array([float(line.split(",")[1]) for line in path.read_text(encoding="utf-8").splitlines()[1:]])
    assert (closes > 0).all()
    returns = np.diff(np.log(closes))
    assert stats.kurtosis(returns) > 1.0
    sizes = np.abs(returns)
    assert stats.spearmanr(sizes[:-1], sizes[1:]).pvalue < 0.01
    assert abs(stats.spearmanr(returns[:-1], returns[1:]).statistic) < 3 / np.sqrt(len(returns))
