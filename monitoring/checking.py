"""One check of one model: window -> measure -> decision -> finding (and the training that it starts).

A report is written for what is news, and for every check that a person asked for; see `monitoring.reporting`.
"""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, text

from core.alerts import clear_alert
from core.connections import Connections
from core.errors import NoProductionVersion, ReferenceRejected
from core.findings import Finding, find_finding, get_finding, store_finding
from core.job_queue import enqueue
from core.policies import DriftPolicy
from core.reference import Reference
from core.trainings import request_training
from monitoring.alerting import note_finding
from monitoring.drift import DriftMeasure, FeatureDrift, build_unmeasured, measure_drift
from monitoring.history import DECISION, MET, SERVED, STARTED, SUBJECT, TRAINING, load_past_checks
from monitoring.performance import find_realised
from monitoring.policy import Decision, PastCheck, Realised, decide
from monitoring.quality import QualityCheck, check_quality
from monitoring.references import load_reference
from monitoring.reporting import write_finding_report
from monitoring.traffic import load_traffic
from monitoring.windows import count_served, load_window

FAILURE = "check"
"""Subject of a finding that says that a check, or its report, failed."""
_CHECKS = uuid.UUID("6f3f0c52-9d3e-4f0e-8a53-0f1f7c2b9a11")


@dataclass(frozen=True)
class _Check:
    """What one look at a version brought."""

    measure: DriftMeasure
    quality: Sequence[QualityCheck]
    decision: Decision
    served: int
    is_news: bool


def check_model(
    connections: Connections,
    model: str,
    policy: DriftPolicy,
    *,
    actor: str,
    key: str | None = None,
    realised: Realised | None = None,
) -> Finding:
    """Check what the model's Production version served in the policy's window, with a report; returns the finding.

    The finding, and the training if there is one, are stored in one transaction, before the report is written: a
    report that fails changes nothing that was decided. `key` is as in `judge_version`. Raises NoProductionVersion.
    """
    production = connections.registry.find_production(model)
    if production is None:
        raise NoProductionVersion(model)
    finding = judge_version(
        connections, model, production.version, policy, actor=actor, key=key, realised=realised, is_report_queued=False
    )
    write_finding_report(connections, finding, policy)
    with connections.engine.connect() as connection:
        return get_finding(connection, model, finding.id)


def judge_version(
    connections: Connections,
    model: str,
    version: int,
    policy: DriftPolicy,
    *,
    actor: str,
    key: str | None = None,
    realised: Realised | None = None,
    is_report_queued: bool = True,
) -> Finding:
    """Measure and decide, and store the finding with its reasons, also that nothing is to be done.

    `key` names the check among those of the version: the same one again, after a process died half-way, is the finding
    that is there already. A training, and the job that writes a report of what is news, are requested in the
    transaction that stores the finding.
    """
    reference, fault = _find_reference(connections, model, version)
    finding_id = uuid.uuid4() if key is None else uuid.uuid5(_CHECKS, f"{model}:{version}:{key}")
    with connections.engine.begin() as connection:
        # Checks of one model see each other's findings, whoever asked for them.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"check:{model}"})
        known = find_finding(connection, finding_id)
        if known is not None:
            return known
        # The database's clock: workers may disagree about the time.
        now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        window_from_at = now - timedelta(hours=policy.window_h)
        realised = realised or find_realised(connection, model, version, now)
        check = _look(connection, model, version, reference, fault, policy, (window_from_at, now), realised)
        reasons, decision = list(check.decision.reasons), asdict(check.decision)
        training_id = None
        if check.decision.outcome == "retrain":
            training, is_new = request_training(connection, model, cause="finding", actor=actor, finding_id=finding_id)
            training_id = training.id
            decision[TRAINING] = STARTED if is_new else MET
            if not is_new:
                reasons.append(f"training met: training {training.id} is {training.state} already, none was requested")
        furthest = _find_furthest(check.measure)
        finding = Finding(
            id=finding_id,
            model=model,
            version=version,
            subject=SUBJECT,
            outcome=check.decision.outcome,
            is_drifted=check.measure.is_drifted,
            reasons=reasons,
            statistic=None if furthest is None else furthest.statistic,
            threshold=None if furthest is None else furthest.threshold,
            rows=check.measure.rows,
            measure={
                **asdict(check.measure),
                SERVED: check.served,
                DECISION: {name: value for name, value in decision.items() if name not in ("outcome", "reasons")},
                "quality": [asdict(one) for one in check.quality],
                "realised": None if realised is None else asdict(realised),
            },
            report_uri=None,
            training_id=training_id,
            window_from_at=window_from_at,
            window_to_at=now,
            found_at=now,
        )
        store_finding(connection, finding)
        note_finding(connection, finding, is_tentative=check.decision.is_tentative, is_judged=check.decision.is_judged)
        clear_alert(connection, model, FAILURE, "a check was made")
        if is_report_queued and check.is_news and reference is not None:
            enqueue(connection, "report", model=model, finding_id=str(finding_id))
    return finding


def store_failure(connections: Connections, model: str, version: int, reason: str, *, key: str) -> Finding:
    """Store that a check of the version failed, or its report, for people to see; once for each `key`."""
    finding_id = uuid.uuid5(_CHECKS, f"{model}:{version}:{key}:failure")
    with connections.engine.begin() as connection:
        known = find_finding(connection, finding_id)
        if known is not None:
            return known
        finding = Finding(
            id=finding_id,
            model=model,
            version=version,
            subject=FAILURE,
            outcome="alert",
            is_drifted=False,
            reasons=[reason],
            statistic=None,
            threshold=None,
            rows=0,
            measure={},
            report_uri=None,
            training_id=None,
            window_from_at=None,
            window_to_at=None,
            found_at=connection.execute(select(func.clock_timestamp())).scalar_one(),
        )
        store_finding(connection, finding)
        note_finding(connection, finding)
    return finding


def _find_reference(connections: Connections, model: str, version: int) -> tuple[Reference | None, str]:
    try:
        return load_reference(connections, model, version), ""
    except ReferenceRejected as error:
        return None, f"{error.sentence} Nothing can be compared with it; train the model anew"


def _look(
    connection: Connection,
    model: str,
    version: int,
    reference: Reference | None,
    fault: str,
    policy: DriftPolicy,
    window: tuple[datetime, datetime],
    realised: Realised | None,
) -> _Check:
    now = window[1]
    counts = load_window(connection, model, version, reference, *window)
    measure = (
        build_unmeasured(counts, fault)
        if reference is None
        else measure_drift(
            reference,
            counts,
            policy.minimum_effect,
            minimum_share=policy.minimum_share,
            clear_share=policy.clear_share,
        )
    )
    quality = check_quality(reference, counts, load_traffic(connection, model, now), policy)
    history = load_past_checks(connection, model, version, policy, now)
    served = count_served(connection, model, version)
    decision = decide(history, measure, policy, now, served=served, quality=quality, realised=realised)
    return _Check(measure, quality, decision, served, _is_news(decision, history))


def _is_news(decision: Decision, history: Sequence[PastCheck]) -> bool:
    """Whether people have not seen this yet: a week of the same alert needs one page and not 168."""
    if decision.outcome in ("fine", "retrain"):
        return decision.outcome == "retrain"
    newest = max(history, key=lambda check: check.checked_at, default=None)
    if newest is None or newest.is_tentative != decision.is_tentative:
        return True
    return (newest.outcome, newest.open_features) != (decision.outcome, decision.open_features)


def _find_furthest(measure: DriftMeasure) -> FeatureDrift | None:
    judged = [feature for feature in measure.features if feature.threshold is not None]
    return max(judged, key=lambda feature: feature.ratio, default=None)
