"""Approvals: a challenger that passed the gate waits in stage Staging until a role lets it take Production.

What waits is read from the transitions and their verdicts alone; nothing else has to agree with them. At most one
version of a model waits: a newer one takes the place of the one before it.
"""

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from core.approval_errors import ApprovalOutdated, NotWaiting
from core.errors import ParameterRejected
from core.principals import Role
from core.registry import ARCHIVED_STAGE, PRODUCTION_STAGE, STAGING_STAGE, Registry
from core.stage_moves import Guard, writing_stages
from core.transitions import Transition, load_waiting
from core.verdicts import Verdict, get_verdict


@dataclass(frozen=True)
class Approval:
    """A version that waits: since which transition, on which verdict, and for whom."""

    transition: Transition
    verdict: Verdict

    @property
    def approver(self) -> Role:
        """The lowest role that may approve or reject it."""
        return Role[str(self.verdict.approver).upper()]


def load_approvals(connection: Connection, model: str | None = None) -> list[Approval]:
    """What waits for an approval, the oldest first; of every model or of one."""
    return [
        Approval(transition, get_verdict(connection, transition.verdict_id))
        for transition in load_waiting(connection, model)
        if transition.verdict_id is not None
    ]


def get_approval(connection: Connection, model: str, version: int) -> Approval:
    """What the version waits for; raises NotWaiting."""
    approvals = load_approvals(connection, model)
    for approval in approvals:
        if approval.transition.version == version:
            return approval
    raise NotWaiting(model, version, [approval.transition.version for approval in approvals])


def ask_for_approval(
    engine: Engine,
    registry: Registry,
    verdict: Verdict,
    verdict_id: uuid.UUID,
    *,
    actor: str,
    guard: Guard | None = None,
) -> Transition:
    """Let the version of the verdict wait in Staging; one that waits already is archived. Raises as `promote`."""
    model, version = verdict.model, verdict.version
    with writing_stages(engine, registry, model, guard) as writer:
        for waiting in load_waiting(writer.connection, model):
            if waiting.version != version:
                writer.move(
                    waiting.version,
                    ARCHIVED_STAGE,
                    actor=actor,
                    cause="superseded",
                    reason=f"version {version} passed the gate after it",
                    verdict_id=waiting.verdict_id,
                )
        return writer.move(
            version, STAGING_STAGE, actor=actor, cause="gate", reason=verdict.reason, verdict_id=verdict_id
        )


def approve(
    engine: Engine, registry: Registry, model: str, version: int, *, actor: str, reason: str = ""
) -> Transition:
    """Let the waiting version take Production. That the actor's role may is for the caller to check.

    Raises NotWaiting, ApprovalOutdated where the champion is another than the one that the gate compared it with,
    TrackingUnavailable.
    """
    with writing_stages(engine, registry, model) as writer:
        approval = get_approval(writer.connection, model, version)
        if writer.production != approval.verdict.champion_version:
            raise ApprovalOutdated(model, version, approval.verdict.champion_version, writer.production)
        return writer.move(
            version,
            PRODUCTION_STAGE,
            actor=actor,
            cause="approval",
            reason=reason,
            verdict_id=approval.transition.verdict_id,
        )


def reject(engine: Engine, registry: Registry, model: str, version: int, *, actor: str, reason: str) -> Transition:
    """Archive the waiting version. That the actor's role may is for the caller to check.

    Raises ParameterRejected without a reason, NotWaiting, TrackingUnavailable.
    """
    if not reason.strip():
        raise ParameterRejected("reason", reason, "a rejection says why")
    with writing_stages(engine, registry, model) as writer:
        approval = get_approval(writer.connection, model, version)
        return writer.move(
            version,
            ARCHIVED_STAGE,
            actor=actor,
            cause="rejection",
            reason=reason,
            verdict_id=approval.transition.verdict_id,
        )
