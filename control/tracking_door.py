"""The door to MLflow: `/mlflow` is the tracking server's own address, for its pages and for its clients.

MLflow's pages name everything relative to where they were loaded from and keep their route behind `#`, so the prefix is
taken off here and the tracking server knows nothing of it: `MLFLOW_TRACKING_URI=http://host:8000/mlflow` and the
server's own address reach the same api. `control.tracking_rights` says who is let through to what.
"""

from collections.abc import Callable

import httpx
from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from control.origins import OriginGuard
from control.tracking_bodies import Document, is_judged, judge_body, peek_document
from control.tracking_matching import MatchedRight, find_right, read_address
from control.tracking_problems import build_tracking_problem
from control.tracking_rights import Right
from control.tracking_sealing import check_unsealed, find_written
from control.tracking_subjects import find_subject
from core.errors import MillraceError, TrackingUnavailable
from core.principals import Principal, Role
from core.registry import Registry
from core.tracking_errors import TrackingRoleTooLow, TrackingRouteUnnamed, TransferPastTheDoor
from web.auditing import note_action, note_actor, note_subject
from web.forwarding import Forwarder
from web.principal import require

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


@router.get("", dependencies=[Depends(require(Role.VIEWER))])
async def redirect_to_pages() -> Response:
    """Add the slash that the relative addresses of MLflow's pages need."""
    return RedirectResponse(f"{PREFIX}/")


class TrackingDoor:
    """An ASGI application, mounted at `/mlflow`, that forwards what its caller has the right to.

    `load_registry` gives the registry that says which files are a version's. `check_log` raises where what is changed
    now could not be entered in the audit log.
    """

    requirement = require(Role.VIEWER)

    def __init__(
        self, address: str, guard: OriginGuard, load_registry: Callable[[], Registry], check_log: Callable[[], None]
    ) -> None:
        self._address = address
        self._load_registry = load_registry
        # Tokens and sessions are ours; MLflow could write them down.
        self._forwarder = Forwarder("tracking", address, PREFIX, kept_back=frozenset({b"authorization", b"cookie"}))
        self._guard = guard
        self._check_log = check_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except (MillraceError, HTTPException) as error:
            await build_tracking_problem(error, scope)(scope, receive, send)

    async def close(self) -> None:
        """Close the connections to the tracking server."""
        await self._forwarder.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        note_action(scope, f"{scope['method']} {PREFIX}/(not named)", is_changing=False)
        note_subject(scope)
        connection = HTTPConnection(scope)
        self._guard.check(connection)
        principal = self.requirement.check(scope)
        note_actor(scope, principal.name, principal.role.word)
        matched = find_right(scope["method"], read_address(scope["path"], scope["raw_path"], PREFIX))
        right = matched.right
        note_action(scope, right.action, is_changing=right.is_changing)
        document: Document = {}
        # Before the role is looked at, so that what was refused is named too.
        if right.is_changing:
            document, receive = await peek_document(scope, receive)
        _note_subject(scope, matched, document)
        _check_role(right, principal)
        if is_judged(right):
            document, scope, receive = await judge_body(right, scope, receive)
            _note_subject(scope, matched, document)
        written = find_written(matched, _load_query(scope))
        if written:
            await run_in_threadpool(lambda: check_unsealed(self._load_registry(), written))
        if right.is_changing:
            await run_in_threadpool(self._check_log)
        if right.template == _SERVER_INFO:
            await (await self._describe_server(Request(scope)))(scope, receive, send)
            return
        await self._forwarder(scope, receive, send)

    async def _describe_server(self, request: Request) -> Response:
        """The tracking server's description of itself, without its offers to transfer artifacts past this door."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
                answer = await client.get(self._address + request.scope["path"].removeprefix(PREFIX))
        except httpx.TransportError as error:
            raise TrackingUnavailable(self._address, str(error) or type(error).__name__) from error
        if answer.status_code != httpx.codes.OK:
            return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
        document = answer.json()
        return JSONResponse(document | {name: False for name in _OFFERS_PAST_THE_DOOR if name in document})


def _note_subject(scope: Scope, matched: MatchedRight, document: Document) -> None:
    # Where the body is known whole, it alone says what MLflow does.
    query = {} if is_judged(matched.right) else {name: values[0] for name, values in _load_query(scope).items()}
    model, target = find_subject(matched.right, matched.parameters, query, document)
    note_subject(scope, model=model, target=target)


def _load_query(scope: Scope) -> dict[str, list[str]]:
    """Every value that the address names, in order: of several MLflow takes the first."""
    query = HTTPConnection(scope).query_params
    return {name: query.getlist(name) for name in query}


def _check_role(right: Right, principal: Principal) -> None:
    if right.is_past_the_door:
        raise TransferPastTheDoor
    if right.role is None:
        raise TrackingRouteUnnamed(right.method, right.template)
    if principal.role < right.role:
        raise TrackingRoleTooLow(right.action, principal.name, principal.role, right.role)
