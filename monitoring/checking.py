"""One check of one model: window -> measure -> decision -> finding (and the training that it starts) -> report."""

import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from core.connections import Connections
from core.errors import NoProductionVersion
from core.findings import Finding, attach_report, attach_training, load_findings, store_finding
from core.model_directory import ModelDirectory
from core.policies import DriftPolicy
from core.reference import Reference
from core.registry import RegisteredVersion
from core.trainings import request_training
from monitoring.drift import DriftMeasure, FeatureDrift, measure_drift
from monitoring.page import ReportSummary
from monitoring.policy import Decision, PastCheck, decide
from monitoring.report import MAX_ROWS, sample_reference, write_report
from monitoring.windows import count_served, load_window, load_window_sample

SUBJECT = "drift"
SERVED = "served"
"""Entry of a finding's measure: how many predictions the version had answered by then."""
_HISTORY = 50
_ACTIONS = {
    "fine": "Nothing was done.",
    "alert": "Nothing was started; the next checks confirm it or clear it.",
    "data_incident": "Nothing was started; the data has to be repaired first.",
    "retrain": "A training was requested; the gate decides whether its version takes Production.",
}


@dataclass(frozen=True)
class _Window:
    from_at: datetime
    to_at: datetime


def check_model(connections: Connections, model: str, policy: DriftPolicy, *, actor: str) -> Finding:
    """Check what the model's Production version served in the policy's window; returns the stored finding.

    The finding, and the training if there is one, are stored in one transaction, before the report is written: a
    report that fails changes nothing that was decided. Raises NoProductionVersion.
    """
    production = connections.registry.find_production(model)
    if production is None:
        raise NoProductionVersion(model)
    now = datetime.now(UTC)
    window = _Window(now - timedelta(hours=policy.window_h), now)
    with TemporaryDirectory(prefix="millrace-check-") as folder:
        reference = _load_reference(connections, production, Path(folder) / "version")
        finding, measure, decision = _decide(connections, production, reference, policy, window, actor)
        _write_report(connections, production, reference, policy, finding, measure, decision, Path(folder) / "report")
    return finding


def _load_reference(connections: Connections, production: RegisteredVersion, folder: Path) -> Reference:
    folder.mkdir()
    connections.registry.download(production.model, production.version, folder)
    return Reference.model_validate(dict(ModelDirectory.open(folder).reference))


def _decide(
    connections: Connections,
    production: RegisteredVersion,
    reference: Reference,
    policy: DriftPolicy,
    window: _Window,
    actor: str,
) -> tuple[Finding, DriftMeasure, Decision]:
    model, version = production.model, production.version
    with connections.engine.begin() as connection:
        counts = load_window(connection, model, version, reference, window.from_at, window.to_at)
        measure = measure_drift(reference, counts, policy.minimum_effect)
        # Only its own checks confirm a version's drift, but a retraining of the model cools all of them down.
        own = load_findings(connection, model, version=version, subject=SUBJECT, limit=_HISTORY)
        all_of_model = load_findings(connection, model, subject=SUBJECT, limit=_HISTORY)
        past = [*own, *(found for found in all_of_model if found.outcome == "retrain" and found.version != version)]
        history = [
            PastCheck(found.found_at, found.is_drifted, found.outcome, int(str(found.measure[SERVED])))
            for found in past
        ]
        served = count_served(connection, model, version)
        decision = decide(history, measure, policy, window.to_at, served=served)
        furthest = _find_furthest(measure)
        finding = Finding(
            id=uuid.uuid4(),
            model=model,
            version=version,
            subject=SUBJECT,
            outcome=decision.outcome,
            is_drifted=measure.is_drifted,
            reasons=list(decision.reasons),
            statistic=None if furthest is None else furthest.statistic,
            threshold=None if furthest is None else furthest.threshold,
            rows=measure.rows,
            measure={**asdict(measure), SERVED: served},
            report_uri=None,
            training_id=None,
            window_from_at=window.from_at,
            window_to_at=window.to_at,
            found_at=window.to_at,
        )
        store_finding(connection, finding)
        if decision.outcome == "retrain":
            training, _ = request_training(connection, model, cause="finding", actor=actor, finding_id=finding.id)
            attach_training(connection, finding.id, training.id)
    return finding, measure, decision


def _find_furthest(measure: DriftMeasure) -> FeatureDrift | None:
    def distance(feature: FeatureDrift) -> float:
        if feature.statistic is None or not feature.threshold:
            return -1.0
        return feature.statistic / feature.threshold

    return max(measure.features, key=distance, default=None)


def _write_report(
    connections: Connections,
    production: RegisteredVersion,
    reference: Reference,
    policy: DriftPolicy,
    finding: Finding,
    measure: DriftMeasure,
    decision: Decision,
    folder: Path,
) -> None:
    names = reference.names
    window_from_at, window_to_at = finding.window_from_at, finding.window_to_at
    if window_from_at is None or window_to_at is None:
        raise TypeError("a drift finding has a window")
    with connections.engine.connect() as connection:
        sample = load_window_sample(
            connection, finding.model, finding.version, names, window_from_at, window_to_at, MAX_ROWS
        )
    summary = ReportSummary(
        model=finding.model,
        version=finding.version,
        outcome=decision.outcome,
        reasons=decision.reasons,
        action=_ACTIONS[decision.outcome],
        target_rate=reference.target_rate,
        minimum_effect=policy.minimum_effect,
        window_start_at=window_from_at,
        window_end_at=window_to_at,
        checked_at=finding.found_at,
    )
    files = write_report(measure, sample_reference(reference, MAX_ROWS, reference.seed), sample, summary, folder)
    place = f"reports/{finding.id}"
    tracking = connections.tracking
    tracking.log_artifact(production.run_id, files.html_path, place)
    tracking.log_artifact(production.run_id, files.json_path, place)
    if finding.statistic is not None:
        tracking.log_metrics(production.run_id, {"drift_statistic": finding.statistic})
    uri = f"runs:/{production.run_id}/{place}/{files.html_path.name}"
    with connections.engine.begin() as connection:
        attach_report(connection, finding.id, uri, files.document)
