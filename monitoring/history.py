"""Earlier checks, as the policy looks at them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import Connection, and_, or_, select

from core.findings import Finding
from core.policies import DriftPolicy
from core.tables.monitoring import findings
from monitoring.policy import PastCheck

SUBJECT = "drift"
SERVED = "served"
DECISION = "decision"
"""Entries of a finding's measure: the predictions answered by then, and what the decision means for later ones."""
TRAINING = "training"
STARTED, MET = "started", "met"

_MOST_CHECKS = 1000


def load_past_checks(
    connection: Connection, model: str, version: int, policy: DriftPolicy, now: datetime
) -> list[PastCheck]:
    """The checks of the version in the last two windows, and the retrainings of the model within the cooldown.

    Only its own checks confirm a version's drift, but a retraining of the model cools all of its versions down.
    """
    found = findings.c
    is_own = and_(found.version == version, found.found_at > now - timedelta(hours=2 * policy.window_h))
    cools_down = and_(found.outcome == "retrain", found.found_at > now - timedelta(hours=policy.cooldown_h))
    statement = (
        select(
            found.version,
            found.found_at,
            found.is_drifted,
            found.outcome,
            found.measure[SERVED],
            found.measure[DECISION],
        )
        .where(found.model == model, found.subject == SUBJECT, or_(is_own, cools_down))
        .order_by(found.found_at.desc())
        .limit(_MOST_CHECKS)
    )
    past = [(checked, _build(*row)) for checked, *row in connection.execute(statement)]
    # Of another version nothing counts but that a retraining was started.
    return [
        check if checked == version else PastCheck(check.checked_at, False, check.outcome, check.served)
        for checked, check in past
        if checked == version or not check.is_met
    ]


def read_decision(finding: Finding) -> Mapping[str, object]:
    """What the finding's decision means for later checks; empty of findings that have none."""
    return cast(Mapping[str, object], finding.measure.get(DECISION) or {})


def _build(found_at: datetime, is_drifted: bool, outcome: str, served: object, decision: object) -> PastCheck:
    # Findings of before the decision was kept say no more than whether anything drifted.
    kept = cast(Mapping[str, object], decision or {})
    return PastCheck(
        checked_at=found_at,
        speaks=bool(kept.get("speaks", is_drifted)),
        outcome=outcome,  # type: ignore[arg-type]  # the column holds outcomes
        served=int(str(served)),
        open_features=tuple(cast(list[str], kept.get("open_features", ()))),
        is_met=kept.get(TRAINING) == MET,
        is_tentative=bool(kept.get("is_tentative")),
    )
