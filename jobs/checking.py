"""Checks as jobs: the workload's policy applied to its model, to all models in a round, and the pages beside them."""

import uuid
from pathlib import Path

from core.connections import Connections
from core.errors import TrackingUnavailable
from core.findings import Finding, get_finding
from core.monitoring_errors import CheckFailed
from monitoring.checking import check_model, store_failure
from monitoring.reporting import write_finding_report
from monitoring.rounds import Round, check_versions
from workloads.catalogue import load_catalogue
from workloads.declaration import Workload

_SHOWN_CHARACTERS = 500


def run_check(
    connections: Connections, workload: Workload, *, actor: str = "platform", key: str | None = None
) -> Finding:
    """Check the workload's Production version; returns the finding. Raises NoProductionVersion."""
    return check_model(connections, workload.name, workload.drift, actor=actor, key=key)


def run_round(connections: Connections, key: str) -> Round:
    """Check every workload that has a version in Production; raises CheckFailed when one could not be checked."""
    policies = {name: workload.drift for name, workload in load_catalogue().items()}
    versions = connections.registry.load_production_versions()
    found = check_versions(connections, versions, policies, key=key)
    if found.failed:
        raise CheckFailed(found.failed, "the findings say why")
    return found


def run_report(connections: Connections, workload: Workload, finding_id: uuid.UUID) -> None:
    """Write the page of a finding. Raises FindingNotFound, ReportFailed."""
    with connections.engine.connect() as connection:
        finding = get_finding(connection, workload.name, finding_id)
    write_finding_report(connections, finding, workload.drift)


def fail_report(connections: Connections, model: str, finding_id: uuid.UUID, reason: str) -> None:
    """Store that a finding's page could not be written; raises CheckFailed."""
    note_failed_report(connections, model, finding_id, reason)
    raise CheckFailed((model,), reason)


def note_failed_report(connections: Connections, model: str, finding_id: uuid.UUID, reason: str) -> None:
    """Store that a finding's page could not be written, as a finding that people see; once for each page."""
    with connections.engine.connect() as connection:
        finding = get_finding(connection, model, finding_id)
    sentence = f"The report of finding {finding_id} could not be written; its decision stands. {_shorten(reason)}"
    store_failure(connections, model, finding.version, sentence, key=f"report {finding_id}")


def note_failed_check(connections: Connections, model: str, key: str, reason: str) -> None:
    """Store that a check failed, as a finding that people see, where there is a version that it was of."""
    try:
        production = connections.registry.find_production(model)
    except TrackingUnavailable:
        # The job says so; of which version the check was is not known.
        return
    if production is not None:
        store_failure(connections, model, production.version, f"The check failed: {_shorten(reason)}", key=key)


def read_since(log_path: Path, offset: int) -> str:
    """What was added to a log after its first `offset` bytes, the last part of it."""
    if not log_path.exists():
        return ""
    with log_path.open("rb") as log:
        log.seek(max(offset, log_path.stat().st_size - 4 * _SHOWN_CHARACTERS))
        return log.read().decode("utf-8", errors="replace")


def _shorten(reason: str) -> str:
    plain = " ".join(reason.split())
    return plain if len(plain) <= _SHOWN_CHARACTERS else f"…{plain[-_SHOWN_CHARACTERS:]}"
