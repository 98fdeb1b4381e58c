"""Approvals over HTTP: what waits for one, and the word of the role that it waits for."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field

from control.documents import Answer, Order, Reason, describe_problems
from control.requests import DeclaredContract, OpenConnections
from control.transitions import LARGEST_VERSION, TransitionDocument
from control.verdicts import VerdictDocument
from core.approvals import Approval, approve, get_approval, load_approvals, reject
from core.connections import Connections
from core.principals import Principal, Role
from web.principal import require

router = APIRouter(tags=["approvals"])

Version = Annotated[int, Path(ge=1, le=LARGEST_VERSION, description="Number of the version that waits")]
_ANSWERS = describe_problems(403, 404, 409)
# Who approves at the least; the waiting version may ask for more.
_LEAST = [Depends(require(Role.OPERATOR))]


class ApprovalDocument(Answer):
    """A version that passed the gate and waits for an approval."""

    model: str
    version: int
    approver: str = Field(description="The role that may approve or reject it; those above it may too")
    verdict: VerdictDocument
    asked_at: datetime
    asked_by: str = Field(description="Who asked for its training")


class ApprovalOrder(Order):
    """Why the version is approved."""

    reason: Reason = Field("", description="Why, for the record")


class RejectionOrder(Order):
    """Why the version is rejected."""

    reason: Reason = Field(min_length=1, description="Why, for the record")


@router.get(
    "/approvals",
    summary="What waits for an approval",
    responses=describe_problems(),
    dependencies=[Depends(require(Role.VIEWER))],
)
def list_approvals(connections: OpenConnections) -> list[ApprovalDocument]:
    """List the versions that wait in Staging, the oldest first, each with the role that it waits for."""
    with connections.engine.connect() as connection:
        return [_build_document(approval) for approval in load_approvals(connection)]


@router.post(
    "/models/{model}/versions/{version}/approve",
    summary="Let a waiting version take Production",
    responses=_ANSWERS,
    dependencies=_LEAST,
)
def approve_version(
    contract: DeclaredContract,
    connections: OpenConnections,
    version: Version,
    request: Request,
    order: ApprovalOrder | None = None,
) -> TransitionDocument:
    """Move the version from Staging to Production; serving follows within two seconds.

    Refused where the champion is no longer the one that the gate compared it with: then train again, or override.
    """
    principal = _check_role(connections, contract.model, version, request)
    transition = approve(
        connections.engine,
        connections.registry,
        contract.model,
        version,
        actor=principal.name,
        reason="" if order is None else order.reason,
    )
    return TransitionDocument.model_validate(transition)


@router.post(
    "/models/{model}/versions/{version}/reject",
    summary="Archive a waiting version",
    responses=_ANSWERS,
    dependencies=_LEAST,
)
def reject_version(
    contract: DeclaredContract, connections: OpenConnections, version: Version, request: Request, order: RejectionOrder
) -> TransitionDocument:
    """Move the version from Staging to Archived; the champion stays."""
    principal = _check_role(connections, contract.model, version, request)
    transition = reject(
        connections.engine,
        connections.registry,
        contract.model,
        version,
        actor=principal.name,
        reason=order.reason,
    )
    return TransitionDocument.model_validate(transition)


def _check_role(connections: Connections, model: str, version: int, request: Request) -> Principal:
    with connections.engine.connect() as connection:
        approval = get_approval(connection, model, version)
    return require(approval.approver)(request)


def _build_document(approval: Approval) -> ApprovalDocument:
    return ApprovalDocument(
        model=approval.transition.model,
        version=approval.transition.version,
        approver=approval.approver.word,
        verdict=VerdictDocument.model_validate(approval.verdict),
        asked_at=approval.transition.finished_at or approval.transition.intended_at,
        asked_by=approval.transition.actor,
    )
