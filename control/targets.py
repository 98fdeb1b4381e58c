"""Serving targets over HTTP: what serves a model, and what did."""

from datetime import datetime

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from control.documents import Answer, Order, describe_problems
from control.requests import Actor, DeclaredContract, Limit, OpenConnections
from core.errors import ParameterRejected
from core.principals import Role
from core.resolution import find_target_version
from core.targets import LATEST, PRODUCTION, load_target_changes, load_targets, set_target
from core.version_names import can_name_version
from web.auditing import note_subject
from web.principal import require

router = APIRouter(
    prefix="/models/{model}/target",
    tags=["serving targets"],
    responses=describe_problems(403, 404),
)


class TargetOrder(Order):
    """What is to serve the model."""

    target: str = Field(
        description=f"`{PRODUCTION}`, `{LATEST}` (the latest that passed the gate) or a version's number or name",
        examples=[PRODUCTION, LATEST, "3", "1.0.0"],
        max_length=200,
    )


class TargetDocument(Answer):
    """What serves the model."""

    model: str
    target: str


class TargetChangeDocument(Answer):
    """One target that was set."""

    target: str
    set_by: str
    set_at: datetime


@router.get("", summary="What serves the model", dependencies=[Depends(require(Role.VIEWER))])
def show_target(contract: DeclaredContract, connections: OpenConnections) -> TargetDocument:
    """Show the serving target; `Production` where none was set."""
    with connections.engine.connect() as connection:
        return TargetDocument(model=contract.model, target=load_targets(connection)[contract.model])


@router.get("/history", summary="What was set to serve the model", dependencies=[Depends(require(Role.VIEWER))])
def list_target_changes(
    contract: DeclaredContract, connections: OpenConnections, limit: Limit = 100
) -> list[TargetChangeDocument]:
    """List the targets that were set, the newest first. Before the first it was `Production`."""
    with connections.engine.connect() as connection:
        changes = load_target_changes(connection, contract.model, limit)
    return [TargetChangeDocument.model_validate(change) for change in changes]


@router.put("", summary="Set what serves the model", dependencies=[Depends(require(Role.ADMINISTRATOR))])
def change_target(
    request: Request, contract: DeclaredContract, connections: OpenConnections, actor: Actor, order: TargetOrder
) -> TargetDocument:
    """Serve this target from now on, without a restart. A version that does not exist is refused at once."""
    note_subject(request.scope, model=contract.model, target=f"target {order.target}")
    if order.target not in (PRODUCTION, LATEST):
        if not can_name_version(order.target):
            allowed = f"allowed are {PRODUCTION}, {LATEST}, or the number or name of a version"
            raise ParameterRejected("target", order.target, allowed)
        find_target_version(connections, contract.model, order.target)
    with connections.engine.begin() as connection:
        set_target(connection, contract.model, order.target, actor)
    return TargetDocument(model=contract.model, target=order.target)
