"""Realised errors by week and month against pandas' own, and what is judged from them."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine

from core.contract import Contract
from core.evaluations import Evaluation, find_evaluation
from core.findings import load_findings
from core.performance import Realised, load_periods, load_realised
from core.policies import DriftPolicy
from core.predicted_keys import PredictedKey
from core.trainings import load_trainings
from ingestion.batches import Batch
from ingestion.outcomes import store_outcomes
from monitoring.performance import check_performance, judge_performance
from tests.outcomes.predicting import START, build_series, build_table, declare, ship

HOURS = 24 * 45


def fill_series(engine: Engine, folder: Path, contract: Contract, scale: float = 1.0) -> pd.DataFrame:
    """Predictions of HOURS hours with their outcomes; what was said, what came and what came before, by time."""
    generator = np.random.default_rng(17)
    came = 100 + np.cumsum(generator.normal(0, 1, HOURS))
    said = came + scale * generator.normal(0.2, 1, HOURS)
    before = np.concatenate([[100.0], came[:-1]])
    times = pd.date_range(START, periods=HOURS, freq="h")
    keys = [PredictedKey("m1", time.to_pydatetime()) for time in times]
    inputs = np.repeat(before[:, None], 4, axis=1)
    ship(engine, folder, contract.model, said[:, None], inputs=inputs, keys=keys)
    rows = [
        {"machine": "m1", "at": time.isoformat(), "reading": value}
        for time, value in zip(times, came.tolist(), strict=True)
    ]
    store_outcomes(engine, contract, Batch([b"{}"] * len(rows), rows, kind="rest", name="o", actor="test"))
    # Shipped values are float32's in the journal alone; here they go in as they are.
    return pd.DataFrame({"said": said.astype(np.float32), "came": came, "before": before.astype(np.float32)}, times)


@pytest.mark.parametrize(("metric", "period", "rule"), [("mae", "week", "W-MON"), ("rmse", "month", "MS")])
def test_weekly_and_monthly_errors_agree_with_pandas(
    engine: Engine, model: str, tmp_path: Path, metric: str, period: str, rule: str
) -> None:
    contract = build_series(model)
    declare(engine, contract, metric)
    frame = fill_series(engine, tmp_path, contract)

    def measure(rows: pd.DataFrame, of: str) -> float:
        gaps = rows[of] - rows["came"]
        return float(gaps.abs().mean()) if metric == "mae" else math.sqrt(float((gaps**2).mean()))

    expected = {
        start: (len(rows), measure(rows, "said"), measure(rows, "before"))
        for start, rows in frame.resample(rule, closed="left", label="left")
    }
    end = START + timedelta(hours=HOURS)
    with engine.connect() as connection:
        evaluation = find_evaluation(connection, model, 1)
        assert evaluation is not None
        found = load_periods(connection, evaluation, "week" if period == "week" else "month", START, end)
    assert len(found) == len(expected) >= 2
    for one in found:
        rows, error, baseline = expected[pd.Timestamp(one.from_at)]
        assert one.realised.rows == rows
        assert one.realised.error == pytest.approx(error, rel=1e-6)
        assert one.realised.baseline_error == pytest.approx(baseline, rel=1e-6)
        assert one.realised.lower is not None and one.realised.upper is not None
        assert one.realised.lower < error < one.realised.upper


def test_interval_is_that_of_the_moving_block_bootstrap_and_narrows_in_neither_way_of_reading(
    engine: Engine, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    fill_series(engine, tmp_path, contract)
    end = START + timedelta(hours=HOURS)
    with engine.connect() as connection:
        by_row = load_realised(connection, model, 1, START, end)
        monkeypatch.setattr("core.performance.MOST_MEANS", 300)
        by_means = load_realised(connection, model, 1, START, end)
    assert by_means.error == pytest.approx(by_row.error)
    assert by_means.baseline_error == pytest.approx(by_row.baseline_error)
    assert by_row.lower is not None and by_row.upper is not None
    assert by_means.lower == pytest.approx(by_row.lower, rel=0.03)
    assert by_means.upper == pytest.approx(by_row.upper, rel=0.03)


@pytest.mark.parametrize("metric", ["log_loss", "brier"])
def test_classifier_is_measured_with_the_prior_as_its_baseline(
    engine: Engine, model: str, tmp_path: Path, metric: str
) -> None:
    contract = build_table(model)
    declare(engine, contract, metric, target_means=(0.3,))
    generator = np.random.default_rng(3)
    said = generator.uniform(0.05, 0.95, 60)
    came = (generator.uniform(size=60) < said).astype(np.float64)
    ids = ship(engine, tmp_path, model, said[:, None], at=START)
    rows = [{"prediction_id": str(one), "failed": value} for one, value in zip(ids, came.tolist(), strict=True)]
    store_outcomes(engine, contract, Batch([b"{}"] * 60, rows, kind="rest", name="o", actor="test"))

    def measure(probability: float | NDArray[np.float64]) -> float:
        if metric == "brier":
            return float(((probability - came) ** 2).mean())
        return float(-np.log(np.where(came > 0.5, probability, 1 - probability)).mean())

    with engine.connect() as connection:
        found = load_realised(connection, model, 1, START, START + timedelta(days=1))
    assert (found.rows, found.metric) == (60, metric)
    assert found.error == pytest.approx(measure(said), rel=1e-6)
    assert found.baseline_error == pytest.approx(measure(0.3), rel=1e-6)


def build_evaluation(model: str, baseline_error: float | None = 2.0) -> Evaluation:
    contract = build_series(model)
    return Evaluation(model, 1, "mae", 0.95, 1.0, 0.9, 1.1, "persistence", baseline_error, None, contract)


@pytest.mark.parametrize(
    ("rows", "error", "lower", "upper", "baseline", "expected"),
    [
        (100, 1.5, 1.2, 1.8, 2.0, "worse"),
        (100, 1.5, 1.05, 1.8, 2.0, "same"),
        (100, 0.6, 0.5, 0.8, 2.0, "better"),
        # Twice the error where persistence has three times its own: the rows were harder.
        (100, 2.0, 1.8, 2.2, 6.0, "same"),
        (100, 0.5, 0.4, 0.6, 0.8, "same"),
        (100, 2.0, 1.8, 2.2, None, "worse"),
        (29, 9.0, 8.0, 10.0, 2.0, "unknown"),
        (0, None, None, None, None, "unknown"),
    ],
)
def test_judgement_needs_intervals_that_lie_apart(
    rows: int,
    error: float | None,
    lower: float | None,
    upper: float | None,
    baseline: float | None,
    expected: str,
) -> None:
    realised = Realised(rows, error, lower, upper, baseline, "mae")
    assert judge_performance(realised, build_evaluation("m")) == expected
    assert judge_performance(realised, None) == "unknown"


def test_worse_outcomes_ask_for_one_training_and_for_the_next_only_with_new_ones(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae", error=0.2, lower=0.15, upper=0.25, baseline_error=0.8)
    fill_series(engine, tmp_path, contract)
    now = START + timedelta(hours=HOURS)
    policy = DriftPolicy(cooldown_h=24.0)
    outcomes = []
    for at in (now, now + timedelta(hours=1), now + timedelta(hours=30)):
        with engine.begin() as connection:
            finding = check_performance(connection, model, 1, policy, at)
        assert finding is not None
        assert finding.measure["judgement"] == "worse"
        outcomes.append(finding.outcome)
    assert outcomes == ["retrain", "alert", "alert"]
    with engine.connect() as connection:
        (training,) = load_trainings(connection, model, limit=5)
        kept = load_findings(connection, model, subject="performance")
    assert training.cause == "finding"
    assert kept[-1].training_id == training.id
    assert training.finding_id == kept[-1].id
    assert "cooldown" in kept[1].reasons[1]
    assert "0 outcomes came since" in kept[0].reasons[1]


def test_version_without_outcomes_or_evaluation_is_not_judged(engine: Engine, model: str, tmp_path: Path) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    with engine.begin() as connection:
        assert check_performance(connection, model, 1, DriftPolicy(), now) is None
        assert load_realised(connection, model, 1, START, now).rows == 0
    declare(engine, build_series(model), "mae")
    with engine.begin() as connection:
        assert check_performance(connection, model, 1, DriftPolicy(), now) is None
        assert load_findings(connection, model) == []
