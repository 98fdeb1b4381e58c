"""Probation: a version that fails too often in its first hours in Production is rolled back by the platform."""

import logging
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, func, select

from core.alerts import clear_alert
from core.connections import Connections
from core.database import try_lock_model
from core.errors import Conflict, NothingToRollBackTo
from core.findings import Finding, find_newest_finding, store_finding
from core.performance import count_joined, load_realised
from core.policies import ProbationPolicy
from core.promotion import find_rollback, rollback
from core.registry import PRODUCTION_STAGE
from core.tables.predictions import request_counts
from core.transitions import Transition, find_last_move, has_rolled_back, load_history
from monitoring.alerting import note_finding

logger = logging.getLogger(__name__)

SUBJECT = "probation"
ACTOR = "platform"
_ROLLS_BACK_TO = "rolls_back_to"


@dataclass(frozen=True)
class ProbationMeasure:
    """What a version did since it took Production.

    `answers` and `failures` are requests; `error` is the realised error over `outcomes` rows, `lower` the lower end of
    its interval, `baseline_error` that of the baseline on the same rows. None where it is not known.
    """

    answers: int
    failures: int
    outcomes: int = 0
    error: float | None = None
    lower: float | None = None
    baseline_error: float | None = None


class ProbationOver(Conflict):
    """Another version took Production, or the same one again, while the version was judged."""

    def __init__(self, model: str, version: int) -> None:
        super().__init__(f"Production of {model!r} moved while version {version} was judged; it is left as it is.")


def judge_probation(measure: ProbationMeasure, policy: ProbationPolicy) -> tuple[str, ...]:
    """Why the version has to go, in sentences with the numbers; nothing where it may stay.

    1. Did more of its requests fail than the policy's share? Asked from `minimum_requests` requests on.
    2. Is its realised error, even at the lower end of its interval, larger than the policy's multiple of the
       baseline's? Asked from `minimum_outcomes` outcomes on, where a baseline is known.
    """
    reasons = []
    requests = measure.answers + measure.failures
    if requests >= policy.minimum_requests and measure.failures > policy.most_failures * requests:
        reasons.append(
            f"{measure.failures} of {requests} requests failed ({measure.failures / requests:.1%}), "
            f"{policy.most_failures:.1%} are allowed"
        )
    is_known = measure.error is not None and measure.lower is not None and bool(measure.baseline_error)
    if is_known and measure.outcomes >= policy.minimum_outcomes:
        lower, baseline = float(measure.lower or 0.0), float(measure.baseline_error or 0.0)
        if lower > policy.most_error * baseline:
            reasons.append(
                f"the realised error over {measure.outcomes} outcomes is {measure.error:.6g}, at least {lower:.6g}; "
                f"{policy.most_error:g} times the baseline's {baseline:.6g} is allowed"
            )
    return tuple(reasons)


def watch_probation(
    connections: Connections, model: str, policy: ProbationPolicy, now: datetime | None = None
) -> Finding | None:
    """Judge the model's Production version, if it is on probation; returns the finding on which it was rolled back.

    On probation is what took Production within the policy's hours, but by a rollback. The finding is stored first. The
    rollback is made again by the next look where something was away, but never once it was done: a version that a
    person promotes again stays, and so does one that has no good version before it. Raises TrackingUnavailable.
    """
    now = now or datetime.now(UTC)
    with connections.engine.begin() as connection:
        taken = find_last_move(connection, model)
        if taken is not None and taken.finished_at is not None:
            # Whatever was found before is over: by a rollback, or because a person moved another version.
            over = f"Production has moved since, with version {taken.version}"
            clear_alert(connection, model, SUBJECT, over, raised_before=taken.finished_at)
        if taken is None or not _is_on_probation(taken, policy, now):
            return None
        finding = find_newest_finding(connection, model, taken.version, SUBJECT)
        if finding is None:
            # Someone promotes at this moment, or another worker looks.
            if not try_lock_model(connection, model):
                return None
            finding = _judge(connections, connection, taken, policy, now)
        if finding is None or _is_dealt_with(connection, finding, taken):
            return None
    return _roll_back(connections, taken, finding)


def load_measure(connection: Connection, taken: Transition, policy: ProbationPolicy, now: datetime) -> ProbationMeasure:
    """What the version did from the hour in which it took Production, and its outcomes of times since then."""
    counted = request_counts.c
    statement = select(func.coalesce(func.sum(counted.answers), 0), func.coalesce(func.sum(counted.failures), 0)).where(
        counted.model == taken.model,
        counted.version == taken.version,
        counted.hour >= func.date_trunc("hour", taken.finished_at, "UTC"),
        counted.hour <= now,
    )
    answers, failures = connection.execute(statement).one()
    measure = ProbationMeasure(int(answers), int(failures))
    if taken.finished_at is None or count_joined(connection, taken.model, taken.version) < policy.minimum_outcomes:
        # An interval of the error takes its time, and fewer say nothing.
        return measure
    realised = load_realised(connection, taken.model, taken.version, taken.finished_at, now)
    return replace(
        measure,
        outcomes=realised.rows,
        error=realised.error,
        lower=realised.lower,
        baseline_error=realised.baseline_error,
    )


def _is_on_probation(taken: Transition, policy: ProbationPolicy, now: datetime) -> bool:
    if taken.to_stage != PRODUCTION_STAGE or taken.cause == "rollback" or taken.finished_at is None:
        return False
    return now - taken.finished_at < timedelta(hours=policy.hours)


def _judge(
    connections: Connections, connection: Connection, taken: Transition, policy: ProbationPolicy, now: datetime
) -> Finding | None:
    measure = load_measure(connection, taken, policy, now)
    reasons = judge_probation(measure, policy)
    if not reasons:
        return None
    existing = {found.version for found in connections.registry.load_versions(taken.model)}
    target = find_rollback(load_history(connection, taken.model, None), taken.version, existing)
    done = "no good version was there before it, so it stays" if target is None else f"back to version {target}"
    finding = Finding(
        id=uuid.uuid4(),
        model=taken.model,
        version=taken.version,
        subject=SUBJECT,
        outcome="alert",
        is_drifted=False,
        reasons=[*reasons, done],
        statistic=None,
        threshold=None,
        rows=measure.answers + measure.failures,
        measure={**asdict(measure), _ROLLS_BACK_TO: target},
        report_uri=None,
        training_id=None,
        window_from_at=taken.finished_at,
        window_to_at=now,
        found_at=now,
    )
    store_finding(connection, finding)
    note_finding(connection, finding)
    logger.error("version %d of %s failed its probation: %s", taken.version, taken.model, "; ".join(finding.reasons))
    return finding


def _is_dealt_with(connection: Connection, finding: Finding, taken: Transition) -> bool:
    """Whether nothing is left to do about the finding: it was rolled back on, could not be, or is of an earlier time
    in Production."""
    is_earlier = taken.finished_at is not None and finding.found_at < taken.finished_at
    return is_earlier or finding.measure[_ROLLS_BACK_TO] is None or has_rolled_back(connection, finding.id)


def _roll_back(connections: Connections, taken: Transition, finding: Finding) -> Finding | None:
    def check(connection: Connection, _production: int | None) -> None:
        last = find_last_move(connection, taken.model)
        if last is None or last.id != taken.id:
            raise ProbationOver(taken.model, taken.version)

    try:
        rollback(
            connections.engine,
            connections.registry,
            taken.model,
            actor=ACTOR,
            reason="; ".join(finding.reasons),
            finding_id=finding.id,
            guard=check,
        )
    except (ProbationOver, NothingToRollBackTo) as error:
        logger.warning("nothing is rolled back: %s", error.sentence)
        return None
    return finding
