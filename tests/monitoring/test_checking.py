"""Whole checks: from hourly counts to a finding, its report and the training that it starts."""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import insert, select, text

from core import trainings as trainings_module
from core.alerts import load_alerts, raise_alert
from core.connections import Connections
from core.database import create_partitions
from core.errors import NoProductionVersion, ReportFailed
from core.findings import Finding, load_findings
from core.model_directory import VersionFiles, write_files
from core.policies import DriftPolicy
from core.promotion import promote
from core.reference import Reference, build_reference, count_bins
from core.tables.monitoring import findings
from core.tables.predictions import feature_counts, predictions, request_counts
from core.trainings import load_trainings
from monitoring import reporting
from monitoring.checking import check_model, judge_version
from monitoring.drift import WindowCounts, measure_drift

NAMES = ("load", "lamp")
ROWS = 400
POLICY = DriftPolicy(minimum_rows=100, confirm_checks=2, confirm_of=3)
BREAK = RuntimeError("broken on purpose")


@dataclass(frozen=True)
class Served:
    """A version in Production, and how values that it served are counted."""

    connections: Connections
    model: str
    version: int
    run_id: str
    reference: Reference

    def serve(self, values: NDArray[np.float64], hours_ago: float = 1.0, *, predicted: int | None = None) -> None:
        """Count the values `(rows, features)` in one hour and keep them as predictions."""
        at = datetime.now(UTC) - timedelta(hours=hours_ago)
        whose = {"model": self.model, "version": self.version}
        hour = at.replace(minute=0, second=0, microsecond=0)
        counts = [
            {**whose, "hour": hour, "feature": name, "bin": position, "count": int(count)}
            for name, column in zip(NAMES, count_bins(self.reference, values), strict=True)
            for position, count in enumerate(column)
            if count
        ]
        rows = [
            {
                **whose,
                "at": at,
                "id": uuid.uuid4(),
                "is_refusal": False,
                "request_id": "r",
                "inputs": [0.0],
                "monitored": row.tolist(),
                "outputs": [1.0],
            }
            for row in values
        ]
        total = len(values) if predicted is None else predicted
        with self.connections.engine.begin() as connection:
            create_partitions(connection, "predictions", at, at, "month")
            if counts:
                connection.execute(insert(feature_counts), counts)
                connection.execute(insert(predictions), rows)
            connection.execute(insert(request_counts).values(**whose, hour=hour, predictions=total, refusals=0))

    def judge(self, key: str | None = None, policy: DriftPolicy = POLICY) -> Finding:
        """A check as a round makes it: no report, but a job for one where there is news."""
        return judge_version(self.connections, self.model, self.version, policy, actor="tests", key=key)

    def count_report_jobs(self) -> int:
        with self.connections.engine.connect() as connection:
            statement = text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'report'")
            return int(connection.execute(statement).scalar_one())

    def check(self, policy: DriftPolicy = POLICY) -> Finding:
        return check_model(self.connections, self.model, policy, actor="tests")

    def load(self) -> list[Finding]:
        with self.connections.engine.connect() as connection:
            return load_findings(connection, self.model)

    def count_trainings(self) -> int:
        with self.connections.engine.connect() as connection:
            return len(load_trainings(connection, self.model))


def draw(rows: int, seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(5 + shift, 2, rows), rng.integers(0, 2, rows)])


@pytest.fixture(scope="module")
def reference() -> Reference:
    return build_reference(draw(3000, 1), NAMES, ["N", ""], seed=1)


def put_into_production(connections: Connections, model: str, reference: Reference, folder: Path) -> Served:
    """A version in Production whose files hold the reference; a check reads nothing else of them."""
    other = folder / "other.bin"
    other.write_bytes(b"not read by a check")
    root = folder / "version"
    root.mkdir()
    write_files(root, VersionFiles(other, other, {}, reference.model_dump(mode="json"), {}))
    run_id = connections.tracking.start_run(model, None, {})
    for path in root.rglob("*"):
        if path.is_file():
            connections.tracking.log_artifact(run_id, path, str(Path("version") / path.relative_to(root).parent))
    registered = connections.registry.register(model, run_id, f"runs:/{run_id}/version", {})
    promote(connections.engine, connections.registry, model, registered.version, actor="tests", cause="hand")
    return Served(connections, model, registered.version, run_id, reference)


@pytest.fixture
def served(connections: Connections, model: str, reference: Reference, tmp_path: Path) -> Served:
    """The version that is checked."""
    return put_into_production(connections, model, reference, tmp_path)


def test_a_model_without_a_version_in_production_is_not_checked(connections: Connections, model: str) -> None:
    with pytest.raises(NoProductionVersion):
        check_model(connections, model, POLICY, actor="tests")


def test_unshifted_counts_are_fine_and_the_report_says_what_the_finding_says(served: Served) -> None:
    values = draw(ROWS, 2)
    served.serve(values[:150], hours_ago=5)
    served.serve(values[150:], hours_ago=1)
    found = served.check()
    assert (found.outcome, found.is_drifted, found.rows, found.training_id) == ("fine", False, ROWS, None)

    counts = dict(zip(NAMES, count_bins(served.reference, values), strict=True))
    expected = measure_drift(served.reference, WindowCounts(ROWS, counts), POLICY.minimum_effect)
    furthest = max(expected.features, key=lambda one: (one.statistic or 0) / (one.threshold or 1))
    assert (found.statistic, found.threshold) == (furthest.statistic, furthest.threshold)

    stored = served.load()[0]
    assert stored.report_uri == f"runs:/{served.run_id}/reports/{found.id}/report.html"
    tracking = served.connections.tracking
    page = tracking.find_artifact(served.run_id, f"reports/{found.id}/report.html", 10**8)
    assert page is not None and b"<html" in page
    kept = tracking.find_artifact(served.run_id, f"reports/{found.id}/report.json", 10**8)
    assert kept is not None
    with served.connections.engine.connect() as connection:
        document = connection.scalar(select(findings.c.report).where(findings.c.id == found.id))
    assert json.loads(kept) == document
    assert document is not None
    drift = {feature["name"]: feature for feature in document["drift"]["features"]}
    assert drift[furthest.name]["statistic"] == found.statistic
    evidently = {metric["config"]["column"]: metric["value"] for metric in document["evidently"]["metrics"]}
    assert evidently[furthest.name] == pytest.approx(found.statistic)


def test_a_shift_is_an_alert_and_confirmed_it_starts_one_training(served: Served) -> None:
    served.serve(draw(ROWS, 3, shift=1.5))
    first = served.check()
    assert (first.outcome, first.is_drifted) == ("alert", True)
    assert served.count_trainings() == 0
    assert first.statistic is not None and first.threshold is not None and first.statistic > first.threshold

    # The same rows looked at again confirm nothing.
    assert served.check().outcome == "alert"
    served.serve(draw(ROWS, 4, shift=1.5), hours_ago=3)
    second = served.check()
    assert second.outcome == "retrain"
    with served.connections.engine.connect() as connection:
        training = load_trainings(connection, served.model)[0]
    assert (training.cause, training.state, training.finding_id) == ("finding", "queued", second.id)
    assert served.load()[0].training_id == training.id

    # Within the cooldown nothing more is started.
    assert [served.check().outcome for _ in range(2)] == ["alert", "alert"]
    assert served.count_trainings() == 1


def test_finding_and_training_are_stored_together_or_not_at_all(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.serve(draw(ROWS, 3, shift=1.5))
    served.check()
    served.serve(draw(ROWS, 4, shift=1.5), hours_ago=3)

    def fail(*_: object, **__: object) -> int:
        raise BREAK

    with monkeypatch.context() as patch:
        patch.setattr(trainings_module, "enqueue", fail)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            served.check()
    assert [one.outcome for one in served.load()] == ["alert"]
    assert served.count_trainings() == 0
    assert served.check().outcome == "retrain"


@pytest.mark.parametrize("rows", [0, 40, 60])
def test_too_few_rows_say_nothing_however_far_they_are_and_clear_nothing(served: Served, rows: int) -> None:
    with served.connections.engine.begin() as connection:
        raise_alert(connection, served.model, "drift", "warning", "Drift found", [])
    served.serve(draw(rows, 3, shift=5.0))
    found = served.check()
    assert (found.outcome, found.rows) == ("fine", rows)
    if rows < POLICY.minimum_rows // 2:
        assert found.statistic is None
    with served.connections.engine.connect() as connection:
        assert len(load_alerts(connection, served.model, is_open=True)) == 1
    assert found.reasons == [f"{rows} rows are too few to judge"] or "too few" in found.reasons[0]


def test_what_was_served_before_the_window_or_by_another_version_does_not_count(served: Served) -> None:
    served.serve(draw(ROWS, 3, shift=3.0), hours_ago=POLICY.window_h + 2)
    other = Served(served.connections, served.model, served.version + 1, served.run_id, served.reference)
    other.serve(draw(ROWS, 3, shift=3.0), hours_ago=2)
    served.serve(draw(ROWS, 4), hours_ago=1)
    found = served.check()
    assert (found.outcome, found.rows) == ("fine", ROWS)


def test_predictions_without_a_value_of_a_feature_are_a_data_incident(served: Served) -> None:
    values = draw(ROWS, 4)
    values[:, 0] = np.nan
    served.serve(values)
    found = served.check()
    assert found.outcome == "data_incident"
    assert "load" in found.reasons[0]
    assert served.count_trainings() == 0


def test_a_report_that_fails_leaves_what_was_decided_and_is_told_of(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.serve(draw(ROWS, 3, shift=1.5))
    served.check()
    served.serve(draw(ROWS, 4, shift=1.5), hours_ago=3)

    def fail(*_: object) -> object:
        raise ReportFailed("the page has no place for the summary")

    monkeypatch.setattr(reporting, "write_report", fail)
    with pytest.raises(ReportFailed):
        served.check()
    newest = served.load()[0]
    assert (newest.outcome, newest.report_uri) == ("retrain", None)
    assert newest.training_id is not None
    assert served.count_trainings() == 1


def test_a_check_that_was_killed_and_runs_again_counts_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    served.serve(draw(ROWS, 3, shift=1.5))

    def die(*_: object) -> None:
        raise BREAK

    # Killed after its finding was stored, before its report was; then again before anything was.
    with monkeypatch.context() as patch:
        patch.setattr("monitoring.checking.write_finding_report", die)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            check_model(served.connections, served.model, POLICY, actor="tests", key="job 7")
    served.serve(draw(ROWS, 4, shift=1.5), hours_ago=3)
    with monkeypatch.context() as patch:
        patch.setattr("monitoring.checking.store_finding", die)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            served.judge("job 8")
    again = check_model(served.connections, served.model, POLICY, actor="tests", key="job 7")
    assert (again.outcome, again.report_uri is not None) == ("alert", True)
    assert [one.id for one in served.load()] == [again.id]
    assert served.judge("job 8").outcome == "retrain"
    assert served.judge("job 8").outcome == "retrain"
    assert len(served.load()) == 2
    assert served.count_trainings() == 1


def test_a_version_without_a_reference_gets_a_finding_that_says_what_to_do(served: Served) -> None:
    bare = served.connections.registry.register(served.model, served.run_id, f"runs:/{served.run_id}/nothing", {})
    promote(
        served.connections.engine, served.connections.registry, served.model, bare.version, actor="tests", cause="hand"
    )
    other = Served(served.connections, served.model, bare.version, served.run_id, served.reference)
    other.serve(draw(ROWS, 3))
    found = other.check()
    assert (found.outcome, found.is_drifted, found.report_uri) == ("alert", False, None)
    assert f"version {bare.version} of {served.model!r} has no manifest.json" in found.reasons[0]
    assert "train the model anew" in found.reasons[0]
