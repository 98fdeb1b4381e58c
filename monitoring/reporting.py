"""The report of a finding: drawn from what the finding holds, kept with the run that made the checked version."""

from pathlib import Path
from tempfile import TemporaryDirectory

from core.connections import Connections
from core.findings import Finding, Outcome, attach_report
from core.policies import DriftPolicy
from monitoring.drift import read_measure
from monitoring.history import MET, TRAINING, read_decision
from monitoring.page import ReportSummary
from monitoring.references import load_reference
from monitoring.report import MAX_ROWS, sample_reference, write_report
from monitoring.windows import load_window_sample

_ACTIONS: dict[Outcome, str] = {
    "fine": "Nothing was done.",
    "alert": "Nothing was started; the next checks confirm it or clear it.",
    "data_incident": "Nothing was started; the data has to be repaired first.",
    "retrain": "A training was requested; the gate decides whether its version takes Production.",
}
_MET = "A training was under way already, and none was requested beside it."


def write_finding_report(connections: Connections, finding: Finding, policy: DriftPolicy) -> None:
    """Write the finding's page and JSON, keep them as artifacts, and note them on the finding.

    Nothing is done for a finding that has its report, or that compared nothing. Raises ReportFailed.
    """
    window_from_at, window_to_at = finding.window_from_at, finding.window_to_at
    if finding.report_uri is not None or window_from_at is None or window_to_at is None:
        return
    measure = read_measure(finding.measure)
    if measure.fault:
        return
    reference = load_reference(connections, finding.model, finding.version)
    run_id = connections.registry.get_version(finding.model, finding.version).run_id
    with connections.engine.connect() as connection:
        sample = load_window_sample(
            connection, finding.model, finding.version, reference.names, window_from_at, window_to_at, MAX_ROWS
        )
    summary = ReportSummary(
        model=finding.model,
        version=finding.version,
        outcome=finding.outcome,
        reasons=tuple(finding.reasons),
        action=_MET if read_decision(finding).get(TRAINING) == MET else _ACTIONS[finding.outcome],
        target_rate=reference.target_rate,
        minimum_effect=policy.minimum_effect,
        minimum_share=policy.minimum_share,
        window_start_at=window_from_at,
        window_end_at=window_to_at,
        checked_at=finding.found_at,
    )
    place = f"reports/{finding.id}"
    with TemporaryDirectory(prefix="millrace-report-") as folder:
        shown = sample_reference(reference, MAX_ROWS, reference.seed)
        files = write_report(measure, shown, sample, summary, Path(folder) / "report")
        connections.tracking.log_artifact(run_id, files.html_path, place)
        connections.tracking.log_artifact(run_id, files.json_path, place)
    if finding.statistic is not None:
        connections.tracking.log_metrics(run_id, {"drift_statistic": finding.statistic})
    uri = f"runs:/{run_id}/{place}/{files.html_path.name}"
    with connections.engine.begin() as connection:
        attach_report(connection, finding.id, uri, files.document)
