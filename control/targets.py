"""Serving targets over HTTP: what serves a model."""

import re

from fastapi import APIRouter
from pydantic import Field

from control.documents import Answer, Order, describe_problems
from control.requests import Actor, DeclaredContract, OpenConnections
from control.versions import LARGEST_VERSION
from core.errors import ModelVersionNotFound, ParameterRejected
from core.registry import Registry
from core.targets import LATEST, PRODUCTION, load_targets, set_target

router = APIRouter(prefix="/models/{model}/target", tags=["serving targets"], responses=describe_problems(403, 404))

_NUMBER = re.compile(r"[1-9][0-9]*", re.ASCII)
_SHOWN_VERSIONS = 10


class TargetOrder(Order):
    """What is to serve the model."""

    target: str = Field(
        description=f"`{PRODUCTION}`, `{LATEST}` (the latest version that passed the gate) or a version's number",
        examples=[PRODUCTION, LATEST, "3"],
        max_length=200,
    )


class TargetDocument(Answer):
    """What serves the model."""

    model: str
    target: str


@router.get("", summary="What serves the model")
def show_target(contract: DeclaredContract, connections: OpenConnections) -> TargetDocument:
    """Show the serving target; `Production` where none was set."""
    with connections.engine.connect() as connection:
        return TargetDocument(model=contract.model, target=load_targets(connection)[contract.model])


@router.put("", summary="Set what serves the model")
def change_target(
    contract: DeclaredContract, connections: OpenConnections, actor: Actor, order: TargetOrder
) -> TargetDocument:
    """Serve this target from now on, without a restart. A version that does not exist is refused at once."""
    _check_target(connections.registry, contract.model, order.target)
    with connections.engine.begin() as connection:
        set_target(connection, contract.model, order.target, actor)
    return TargetDocument(model=contract.model, target=order.target)


def _check_target(registry: Registry, model: str, target: str) -> None:
    if target in (PRODUCTION, LATEST):
        return
    if not _NUMBER.fullmatch(target):
        raise ParameterRejected("target", target, f"allowed are {PRODUCTION}, {LATEST} or the number of a version")
    # A longer number fits no column of the registry's.
    if len(target) > len(str(LARGEST_VERSION)) or int(target) > LARGEST_VERSION:
        existing = [str(known.version) for known in registry.load_versions(model)]
        raise ModelVersionNotFound(model, target, existing[:_SHOWN_VERSIONS])
    registry.get_version(model, int(target))
