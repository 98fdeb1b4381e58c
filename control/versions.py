"""Versions and their stages over HTTP: what is registered, what was in Production, and moving it by hand."""

import uuid
from collections.abc import Mapping
from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from control.documents import Answer, Order, Reason, describe_problems
from control.requests import Actor, DeclaredContract, Limit, OpenConnections
from core.promotion import promote_by_hand, rollback
from core.transitions import TransitionCause, TransitionOrigin, TransitionState, load_history
from core.verdicts import VerdictOutcome, load_outcomes

router = APIRouter(prefix="/models/{model}", tags=["versions"], responses=describe_problems(404))

LARGEST_VERSION = 2**31 - 1


class VersionDocument(Answer):
    """One registered version."""

    model: str
    version: int
    stage: str = Field(description="MLflow's stage: None, Staging, Production or Archived")
    run_id: str = Field(description="MLflow's run that made it")
    outcome: VerdictOutcome | None = Field(None, description="What the gate decided last; null if it never saw it")
    tags: Mapping[str, str]
    created_at: datetime


class TransitionDocument(Answer):
    """One recorded change of stage: who or what, from, to, why, on which verdict."""

    id: int
    model: str
    version: int
    from_stage: str
    to_stage: str
    previous_version: int | None = Field(description="The version that was in Production before")
    state: TransitionState
    origin: TransitionOrigin = Field(description="`external` where it was moved in MLflow itself")
    actor: str
    cause: TransitionCause
    reason: str
    verdict_id: uuid.UUID | None
    intended_at: datetime
    finished_at: datetime | None


class PromotionOrder(Order):
    """Which version to bring to Production, and why."""

    version: int = Field(strict=True, ge=1, le=LARGEST_VERSION, description="Number of a registered version")
    override: bool = Field(
        False, strict=True, description="Promote against the gate's verdict; needs a reason, which is kept"
    )
    reason: Reason = Field("", description="Why, for the record")


class RollbackOrder(Order):
    """Why the version in Production is taken back."""

    reason: Reason = Field("", description="Why, for the record")


@router.get("/versions", summary="The registered versions")
def list_versions(contract: DeclaredContract, connections: OpenConnections, limit: Limit = 50) -> list[VersionDocument]:
    """List the versions in MLflow's registry, the newest first, each with its stage and the gate's last outcome."""
    registered = connections.registry.load_versions(contract.model)[:limit]
    with connections.engine.connect() as connection:
        outcomes = load_outcomes(connection, contract.model)
    documents = [VersionDocument.model_validate(version) for version in registered]
    for document in documents:
        document.outcome = outcomes.get(document.version)
    return documents


@router.get("/history", summary="What was in Production, and why")
def list_transitions(
    contract: DeclaredContract, connections: OpenConnections, limit: Limit = 100
) -> list[TransitionDocument]:
    """List the model's changes of stage, the newest first, including those made in MLflow itself."""
    with connections.engine.connect() as connection:
        history = load_history(connection, contract.model, limit)
    return [TransitionDocument.model_validate(transition) for transition in history]


@router.post("/promote", summary="Bring a version to Production by hand", responses=describe_problems(403, 404, 409))
def promote_version(
    contract: DeclaredContract, connections: OpenConnections, actor: Actor, order: PromotionOrder
) -> TransitionDocument:
    """Move the version to stage Production and archive the one that was there; serving follows within two seconds.

    A version whose last verdict is not `promote` needs `override` and a reason.
    For a version that is in Production already nothing is recorded: the transition that brought it there is answered.
    """
    transition = promote_by_hand(
        connections.engine,
        connections.registry,
        contract.model,
        order.version,
        actor=actor,
        reason=order.reason,
        is_override=order.override,
    )
    return TransitionDocument.model_validate(transition)


@router.post("/rollback", summary="Go back to the previous good version", responses=describe_problems(403, 404, 409))
def rollback_version(
    contract: DeclaredContract, connections: OpenConnections, actor: Actor, order: RollbackOrder | None = None
) -> TransitionDocument:
    """Bring back to Production the version that was there before; serving still has it loaded."""
    reason = "" if order is None else order.reason
    transition = rollback(connections.engine, connections.registry, contract.model, actor=actor, reason=reason)
    return TransitionDocument.model_validate(transition)
