"""Paths that workloads document and control answers: a training that is asked for, and rows that are brought in.

Serving passes on what it does not know. So they answer before the first version of a model is there, which alone tells
serving of them, and a first training can be asked for.
"""

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from core.connections import Connections
from core.contract import Route
from core.contracts import load_contracts
from core.principals import Role
from web.principal import require

_PLACES = {"observations": "/models/{}/observations", "training": "/models/{}/trainings"}
"""The address of control's own that answers a route of each codec."""


class DocumentedPaths:
    """What no route of control matched: a path that a workload's contract documents, or nothing."""

    def __init__(self, connections: Connections, routes: ASGIApp) -> None:
        self._connections = connections
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        found = await run_in_threadpool(self._find, scope["path"])
        if found is None:
            raise HTTPException(404)
        model, route, place = found
        if scope["method"] != route.method:
            raise HTTPException(405, headers={"Allow": route.method})
        if route.role is not None:
            require(Role[route.role.upper()])(Request(scope))
        path = place.format(model)
        # The same scope, so that who records the request finds the route in it.
        scope.update(path=path, raw_path=path.encode())
        await self._routes(scope, receive, send)

    def _find(self, path: str) -> tuple[str, Route, str] | None:
        """The model, its route and the address that answers it; of two models the first by name, as in serving."""
        with self._connections.engine.connect() as connection:
            contracts = load_contracts(connection)
        for contract in contracts:
            for route in contract.routes:
                if route.path == path and route.codec in _PLACES:
                    return contract.model, route, _PLACES[route.codec]
        return None
