"""Versions and their stages over HTTP: what is registered, and moving it by hand."""

from collections.abc import Mapping
from datetime import datetime

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from control.documents import Answer, Order, Reason, describe_problems
from control.requests import Actor, DeclaredContract, Limit, OpenConnections
from control.transitions import LARGEST_VERSION, TransitionDocument
from core.principals import Role
from core.promotion import promote_by_hand, rollback
from core.verdicts import VerdictOutcome, load_outcomes
from web.auditing import note_subject
from web.principal import require

router = APIRouter(
    prefix="/models/{model}",
    tags=["versions"],
    responses=describe_problems(404),
)


class VersionDocument(Answer):
    """One registered version."""

    model: str
    version: int
    stage: str = Field(description="MLflow's stage: None, Staging, Production or Archived")
    run_id: str = Field(description="MLflow's run that made it")
    outcome: VerdictOutcome | None = Field(None, description="What the gate decided last; null if it never saw it")
    tags: Mapping[str, str]
    created_at: datetime


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


@router.get("/versions", summary="The registered versions", dependencies=[Depends(require(Role.VIEWER))])
def list_versions(contract: DeclaredContract, connections: OpenConnections, limit: Limit = 50) -> list[VersionDocument]:
    """List the versions in MLflow's registry, the newest first, each with its stage and the gate's last outcome."""
    registered = connections.registry.load_versions(contract.model)[:limit]
    with connections.engine.connect() as connection:
        outcomes = load_outcomes(connection, contract.model)
    documents = [VersionDocument.model_validate(version) for version in registered]
    for document in documents:
        document.outcome = outcomes.get(document.version)
    return documents


@router.post(
    "/promote",
    summary="Bring a version to Production by hand",
    responses=describe_problems(403, 404, 409),
    dependencies=[Depends(require(Role.ADMINISTRATOR))],
)
def promote_version(
    request: Request, contract: DeclaredContract, connections: OpenConnections, actor: Actor, order: PromotionOrder
) -> TransitionDocument:
    """Move the version to stage Production and archive the one that was there; serving follows within two seconds.

    A version whose last verdict is not `promote`, one that was rolled back from since, and one that needs an approval
    need `override` and a reason.
    For a version that is in Production already nothing is recorded: the transition that brought it there is answered.
    """
    note_subject(request.scope, model=contract.model, target=f"version {order.version}")
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


@router.post(
    "/rollback",
    summary="Go back to the previous good version",
    responses=describe_problems(403, 404, 409),
    dependencies=[Depends(require(Role.ADMINISTRATOR))],
)
def rollback_version(
    contract: DeclaredContract, connections: OpenConnections, actor: Actor, order: RollbackOrder | None = None
) -> TransitionDocument:
    """Bring back to Production the last good version before the present one; serving still has it loaded.

    Good is what was in Production, and was neither rolled back from nor taken out of it or deleted in MLflow; rolling
    back again goes further back.
    """
    reason = "" if order is None else order.reason
    transition = rollback(connections.engine, connections.registry, contract.model, actor=actor, reason=reason)
    return TransitionDocument.model_validate(transition)
