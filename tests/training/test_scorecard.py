"""What is said of a version on its hold-out: intervals, slices, calibration, backtest."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, r2_score

from core.bootstrap import bootstrap_metric_intervals
from core.errors import DeclarationRejected
from tests.training.series import draw_columns
from training.backtest import run_backtest
from training.calibration import measure_calibration
from training.evaluation import measure_errors
from training.kinds import get_kind
from training.parts import Part, Parts
from training.ranking import POPULARITY
from training.scorecard import build_scorecard
from workloads.catalogue import get_workload
from workloads.declaration import Slice
from workloads.prices.workload import WORKLOAD

ROWS = 400
BORDER = 4_500.0
SMALL = {"sequence_length": 8}
DAY = np.timedelta64(1, "D").astype("timedelta64[us]")


# --- intervals ---------------------------------------------------------------------------------------------------


def test_interval_of_a_metric_agrees_with_scipys_bootstrap() -> None:
    generator = np.random.default_rng(0)
    targets = generator.normal(size=300)
    predictions = targets + generator.normal(0, 0.7, 300)
    found = bootstrap_metric_intervals(
        lambda rows: {"r2": float(r2_score(targets[rows], predictions[rows]))},
        300,
        confidence=0.9,
        block_length=1,
        seed=1,
        samples=2_000,
    )["r2"]
    expected = stats.bootstrap(
        (targets, predictions),
        r2_score,
        paired=True,
        vectorized=False,
        confidence_level=0.9,
        n_resamples=2_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.015)


def test_metric_that_most_samples_do_not_define_has_no_interval() -> None:
    is_rare = np.zeros(50)
    is_rare[0] = 1.0

    def measure(rows: NDArray[np.int64]) -> dict[str, float]:
        chosen = is_rare[rows]
        return {"always": 1.0} | ({"rare": 1.0} if chosen.sum() > 2 else {})

    found = bootstrap_metric_intervals(measure, 50, confidence=0.95, block_length=1, seed=0)
    assert found == {"always": (1.0, 1.0)}


# --- calibration -------------------------------------------------------------------------------------------------


def test_calibration_of_two_classes_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    said = generator.beta(1, 3, 2_000)
    came = (generator.random(2_000) < said**1.5).astype(np.float64)
    found = measure_calibration(came[:, None], said[:, None])
    observed, predicted = calibration_curve(came, said, n_bins=10)
    assert [one.observed for one in found.bins] == pytest.approx(observed.tolist())
    assert [one.predicted for one in found.bins] == pytest.approx(predicted.tolist())
    assert found.brier == pytest.approx(brier_score_loss(came, said))
    shares = np.histogram(said, bins=10, range=(0, 1))[0] / 2_000
    assert found.expected_error == pytest.approx(float((shares[shares > 0] * np.abs(observed - predicted)).sum()))
    assert found.expected_error > 0.05


def test_calibration_of_more_classes_is_that_of_the_class_called() -> None:
    predictions = np.array([[0.71, 0.2, 0.09], [0.1, 0.75, 0.15], [0.2, 0.05, 0.75], [0.72, 0.1, 0.18]])
    targets = np.eye(3)[[0, 1, 0, 1]]
    found = measure_calibration(targets, predictions)
    assert [(one.rows, one.observed) for one in found.bins] == [(4, 0.5)]
    assert found.expected_error == pytest.approx((0.71 + 0.75 + 0.75 + 0.72) / 4 - 0.5)


# --- backtest ----------------------------------------------------------------------------------------------------


def build_part(rows: int, steps: int) -> Part:
    generator = np.random.default_rng(5)
    times = np.datetime64("2026-01-01", "us") + np.arange(rows) * DAY
    return Part(
        inputs=np.zeros((rows, 1), np.float32),
        targets=generator.normal(size=(rows, steps)),
        keys=np.arange(rows).astype(np.str_),
        times=times,
        ends=times + (steps - 1) * DAY,
    )


def test_backtest_rolls_through_every_origin_once_and_shows_each_step_ahead() -> None:
    part = build_part(53, 3)
    predictions = part.targets + 1.0
    predictions[30:] += 1.0
    predictions[:, 2] += 4.0
    found = run_backtest(measure_errors, part, predictions, ("persistence", np.zeros((53, 3))))
    assert found is not None
    assert (found.is_refitted, found.baseline) == (False, "persistence")
    assert [fold.rows for fold in found.folds] == [11, 11, 11, 10, 10]
    assert part.times is not None and part.ends is not None
    assert found.folds[1].first_at == str(part.times[11])
    assert found.folds[1].last_at == str(part.ends[21])
    assert found.folds[0].model["mae"] == pytest.approx((1 + 1 + 5) / 3)
    assert found.folds[-1].model["mae"] == pytest.approx((2 + 2 + 6) / 3)
    assert found.folds[1].baseline["mae"] == pytest.approx(np.abs(part.targets[11:22]).mean())
    late = 23 / 53
    assert [one.model["mae"] for one in found.steps] == pytest.approx([1 + late, 1 + late, 5 + late])


def test_rows_without_time_have_no_backtest() -> None:
    part = replace(build_part(40, 1), times=None, ends=None)
    assert run_backtest(measure_errors, part, part.targets, ("mean", part.targets)) is None


# --- slices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "fault"),
    [
        (Slice("x", "Nope", values=("a",)), "'Nope'"),
        (Slice("x", "Close"), "either values or bounds"),
        (Slice("x", "Close", values=("a",), minimum=0.0), "either values or bounds"),
        (Slice("x", "Close", minimum=0.0, margin=-0.1), "margin"),
        (Slice("x", "Close", minimum=0.0, minimum_rows=0), "at least 1 row"),
    ],
)
def test_slice_that_is_not_declared_rightly_is_refused(one: Slice, fault: str) -> None:
    with pytest.raises(DeclarationRejected, match=fault):
        replace(WORKLOAD, slices=(one,)).build_contract()


def test_ranking_has_slices_of_users_alone() -> None:
    books = get_workload("books")
    replace(books, slices=(Slice("first", "user_id", values=("1",)),)).build_contract()
    with pytest.raises(DeclarationRejected, match="of the user alone"):
        replace(books, slices=(Slice("first", "rating", minimum=4.0),)).build_contract()


def test_scorecard_of_a_ranking_has_intervals_of_what_users_have_and_none_of_coverage() -> None:
    books = get_workload("books")
    declared = books.build_contract({"history": 8})
    generator = np.random.default_rng(2)
    readers, titles = 60, 30
    contract = declared.model_copy(update={"vocabularies": {"book_id": tuple(str(one) for one in range(titles))}})
    inputs = np.zeros((readers, *contract.input_shape), dtype=np.float32)
    targets = generator.integers(1, titles + 1, (readers, 1)).astype(np.float64)
    part = Part(inputs, targets, keys=np.arange(readers).astype(np.str_))
    answers = np.zeros((2, readers, contract.outputs))
    for answer in answers:
        for row in answer:
            row[:titles] = generator.permutation(titles) + 1
            row[contract.outputs // 2 :][:titles] = np.linspace(1.0, 0.1, titles)
    scorecard = build_scorecard(books, contract, Parts(part, part, part), answers[0], {POPULARITY: answers[1]}, seed=3)
    assert set(scorecard.intervals) == {"ndcg_loss", "ndcg_at_10", "recall_at_10"}
    assert "coverage_at_10" in scorecard.model
    low, high = scorecard.intervals["ndcg_at_10"]
    assert low < scorecard.model["ndcg_at_10"] < high
    assert scorecard.improvement.baseline == POPULARITY
    assert (scorecard.calibration, scorecard.backtest) == (None, None)


def test_scorecard_has_slices_beside_the_baseline_and_the_improvement_over_it() -> None:
    slices = (
        Slice("low", "Close", maximum=BORDER),
        Slice("high", "Close", minimum=BORDER),
        Slice("none", "Close", minimum=1e8),
    )
    workload = replace(WORKLOAD, slices=slices)
    columns = draw_columns(WORKLOAD.build_contract(SMALL), ROWS)
    contract = workload.build_contract(SMALL)
    parts = get_kind(contract).split_columns(contract, columns, workload.split)
    holdout = parts.holdout
    baselines = get_kind(contract).predict_baselines(contract, parts.train, holdout)
    predictions = (holdout.targets + baselines["persistence"]) / 2
    found = build_scorecard(workload, contract, parts, predictions, baselines, seed=7)
    assert found.improvement.baseline == "persistence"
    assert found.improvement.mean == pytest.approx(found.baselines["persistence"]["mae"] / 2)
    assert 0 < found.improvement.low < found.improvement.mean < found.improvement.high
    assert found.model["mae"] == pytest.approx(found.improvement.mean)
    low, high = found.intervals["mae"]
    assert low < found.model["mae"] < high
    by_name = {one.name: one for one in found.slices}
    assert by_name["low"].rows + by_name["high"].rows == holdout.rows
    assert (by_name["none"].rows, by_name["none"].model) == (0, {})
    rows = holdout.inputs[:, -1, 0] <= BORDER
    assert 0 < rows.sum() < holdout.rows
    expected = np.abs(holdout.targets - baselines["persistence"])[rows].mean()
    assert by_name["low"].baseline["mae"] == pytest.approx(expected)
    assert (found.calibration, len(found.backtest.folds) if found.backtest else 0) == (None, 4)
    metrics = found.to_metrics()
    assert metrics["mae_ratio"] == pytest.approx(0.5)
    assert metrics["slice_low_mae"] == pytest.approx(expected / 2)
