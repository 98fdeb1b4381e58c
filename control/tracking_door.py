"""The door to MLflow: `/mlflow` is the tracking server's own address, for its pages and for its clients.

MLflow's pages name everything relative to where they were loaded from and keep their route behind `#`, so the prefix is
taken off here and the tracking server knows nothing of it: `MLFLOW_TRACKING_URI=http://host:8000/mlflow` and the
server's own address reach the same api.
"""

import httpx
from fastapi import APIRouter, Request
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from control.origins import OriginGuard
from control.requests import OpenConnections
from core.errors import TrackingUnavailable
from web.forwarding import Forwarder

PREFIX = "/mlflow"
_SERVER_INFO = "/api/3.0/mlflow/server-info"
_TIMEOUT_S = 5.0

# The tracking server offers these wherever its artifacts are on S3. A client that takes the offer is sent past the
# door, to an address that it may not reach.
_OFFERS_PAST_THE_DOOR = (
    "multipart_uploads_enabled",
    "multipart_downloads_enabled",
    "presigned_upload_run_id_supported",
    "presigned_upload_model_id_supported",
)

router = APIRouter(prefix=PREFIX, include_in_schema=False)


@router.get("")
async def redirect_to_pages() -> Response:
    """Add the slash that the relative addresses of MLflow's pages need."""
    return RedirectResponse(f"{PREFIX}/")


@router.get(_SERVER_INFO)
@router.get(_SERVER_INFO.replace("/api/", "/ajax-api/"))
async def describe_server(request: Request, connections: OpenConnections) -> Response:
    """The tracking server's description of itself, without its offers to transfer artifacts past this door."""
    address = connections.settings.tracking_address
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
            answer = await client.get(address + request.url.path.removeprefix(PREFIX))
    except httpx.TransportError as error:
        raise TrackingUnavailable(address, str(error) or type(error).__name__) from error
    if answer.status_code != httpx.codes.OK:
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
    document = answer.json()
    return JSONResponse(document | {name: False for name in _OFFERS_PAST_THE_DOOR if name in document})


class TrackingDoor:
    """An ASGI application, mounted at `/mlflow`, that forwards what the origin guard lets through."""

    def __init__(self, address: str, guard: OriginGuard) -> None:
        self._forwarder = Forwarder("tracking", address, PREFIX)
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard.check(HTTPConnection(scope))
        await self._forwarder(scope, receive, send)

    async def close(self) -> None:
        """Close the connections to the tracking server."""
        await self._forwarder.close()
