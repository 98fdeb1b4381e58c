"""Outcomes by the clock: completed rows, daily metrics and the finding of a served version."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from sqlalchemy import text

from core.alerts import load_alerts
from core.connections import Connections
from core.evaluations import find_evaluation
from core.findings import load_findings
from core.model_directory import VersionFiles, write_files
from core.predicted_keys import PredictedKey
from core.promotion import promote
from ingestion.batches import Batch
from ingestion.outcomes import store_outcomes
from jobs.performance import check_all, complete_all, keep_evaluation
from jobs.startup import declare_workloads
from tests.outcomes.predicting import declare, ship
from tests.serving.folder_registry import FolderRegistry
from tests.serving.onnx_models import build_contract
from workloads.catalogue import get_workload

NOW = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0)
WEEKS = 40


def test_served_version_is_judged_and_its_outcomes_become_rows(
    connections: Connections, tmp_path: Path, tracking_server: str
) -> None:
    declare_workloads(connections)
    contract = get_workload("man_hours").build_contract()
    contract = contract.model_copy(update={"vocabularies": {"aircraft": ("PT-A",)}})
    run_id = connections.tracking.start_run("man_hours", None, {})
    source = tmp_path / "note.txt"
    source.write_text("a version")
    connections.tracking.log_artifact(run_id, source, "version")
    registered = connections.registry.register("man_hours", run_id, f"runs:/{run_id}/version", {})
    promote(
        connections.engine,
        connections.registry,
        "man_hours",
        registered.version,
        actor="test",
        cause="hand",
        reason="",
        verdict_id=None,
    )
    declare(connections.engine, contract, "rmse", error=1.0, lower=0.8, upper=1.2, target_means=(50.0,))
    with connections.engine.begin() as connection:
        connection.execute(text("UPDATE evaluations SET version = :version"), {"version": registered.version})
    dates = [NOW.replace(hour=0) - timedelta(days=1 + hour // 2) for hour in range(WEEKS)]
    keys = [PredictedKey(f"PT-{'AB'[place % 2]}", date) for place, date in enumerate(dates)]
    inputs = np.tile([20.0, 5.0, 30.0, 80.0, 1.0], (WEEKS, 1))
    ship(
        connections.engine,
        tmp_path,
        "man_hours",
        np.full((WEEKS, 1), 50.0),
        inputs=inputs,
        keys=keys,
        version=registered.version,
    )
    rows = [
        {"aircraft": key.entity, "date": key.time.isoformat() if key.time else "", "man_hours": 54.0 + place % 3}
        for place, key in enumerate(keys)
    ]
    store_outcomes(connections.engine, contract, Batch([b"{}"] * WEEKS, rows, kind="rest", name="o", actor="test"))

    assert complete_all(connections) == WEEKS
    assert complete_all(connections) == 0
    with connections.engine.connect() as connection:
        stored = connection.execute(
            text("SELECT count(*), min(cycles), min(sum_daily_hours) FROM observations_man_hours")
        ).one()
    assert tuple(stored) == (WEEKS, 30.0, 20.0)

    (finding,) = [one for one in check_all(connections, NOW) if one.model == "man_hours"]
    assert (finding.outcome, finding.measure["judgement"], finding.subject) == ("retrain", "worse", "performance")
    with connections.engine.connect() as connection:
        assert load_findings(connection, "man_hours")[0].training_id is not None
    logged = MlflowClient(tracking_server).get_metric_history(run_id, "realised_rmse")
    assert len(logged) == WEEKS // 2
    by_day = {entry.step: entry.value for entry in logged}
    day = (dates[-1] - datetime(1970, 1, 1, tzinfo=UTC)).days
    errors = np.array([rows[place]["man_hours"] for place in (WEEKS - 2, WEEKS - 1)], dtype=float) - 50.0
    assert by_day[day] == pytest.approx(float(np.sqrt(np.mean(errors**2))))


def test_evaluation_of_an_earlier_version_is_fetched_from_its_directory(
    connections: Connections, tmp_path: Path
) -> None:
    contract = build_contract("prices")
    (tmp_path / "prices" / "4").mkdir(parents=True)
    file = tmp_path / "model"
    file.write_bytes(b"not loaded")
    evaluation: dict[str, object] = {
        "metric": "mae",
        "confidence": 0.9,
        "model": {"mae": 3.0, "rmse": 4.0},
        "intervals": {"mae": [2.5, 3.5]},
        "baselines": {"persistence": {"mae": 3.2}},
        "improvement": {"baseline": "persistence"},
    }
    files = VersionFiles(file, file, contract.model_dump(mode="json"), {}, evaluation)
    write_files(tmp_path / "prices" / "4", files)
    # The outside registry alone is replaced; the property keeps what stands in the object.
    connections.__dict__["registry"] = FolderRegistry(tmp_path)
    for _ in range(2):
        keep_evaluation(connections, "prices", 4)
    with connections.engine.connect() as connection:
        kept = find_evaluation(connection, "prices", 4)
    assert kept is not None
    assert (kept.error, kept.lower, kept.upper, kept.baseline_error) == (3.0, 2.5, 3.5, 3.2)
    assert (kept.target_means, kept.contract) == (None, contract)


def test_model_whose_outcomes_break_its_check_is_told_of_and_keeps_no_other_from_theirs(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def check(_connections: Connections, model: str, _now: datetime) -> None:
        checked.append(model)
        if model == "books":
            raise ZeroDivisionError("no ratings")

    production = {"books": 3, "prices": 1}
    monkeypatch.setattr("jobs.performance.check_version", check)
    monkeypatch.setattr(connections.registry, "load_production_versions", lambda: production)
    for _ in range(2):
        assert check_all(connections, NOW) == []
    assert sorted(set(checked)) == ["books", "prices"]
    with connections.engine.connect() as connection:
        (failure,) = load_findings(connection, "books")
        (alert,) = load_alerts(connection, is_open=True)
    assert (failure.subject, failure.version) == ("check", 3)
    assert "ZeroDivisionError: no ratings" in failure.reasons[0]
    assert (alert.model, alert.finding_id) == ("books", failure.id)
