"""What a route may ask of its request: the connections, the declared model, the actor, how much to list."""

from typing import Annotated

from fastapi import Depends, Path, Query, Request

from core.connections import Connections
from core.contract import Contract
from core.contracts import load_contract
from core.names import check_name
from web.principal import get_actor

MAX_LISTED = 500


def get_connections(request: Request) -> Connections:
    """The connections that the application was made with."""
    connections: Connections = request.app.state.connections
    return connections


OpenConnections = Annotated[Connections, Depends(get_connections)]


def get_contract(
    model: Annotated[str, Path(description="Name of the model, as its workload declares it", examples=["prices"])],
    connections: OpenConnections,
) -> Contract:
    """The contract of the model in the path; raises NameRejected and ModelNotFound."""
    check_name("model", model)
    with connections.engine.connect() as connection:
        return load_contract(connection, model)


DeclaredContract = Annotated[Contract, Depends(get_contract)]
Actor = Annotated[str, Depends(get_actor)]
Limit = Annotated[int, Query(ge=1, le=MAX_LISTED, description="How many to list at most, newest first")]
