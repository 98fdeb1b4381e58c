"""Forwarding of requests to another process: bodies stream both ways, nothing of them is kept."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing

import httpx
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from core.errors import UpstreamUnavailable
from web.bodies import BodyTooLarge, check_declared_length
from web.request_ids import HEADER, get_request_id

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 2.0
_ANSWER_TIMEOUT_S = 600.0
_MAX_CONNECTIONS = 200
_ANSWERED_KEY = "millrace.answered_upstream"

# RFC 9110, section 7.6.1; what the Connection header names is dropped too.
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_OURS_IN_REQUEST = {b"host", HEADER, b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
# The answer goes out through a server of ours, which dates it itself.
_OURS_IN_ANSWER = {HEADER, b"date", b"server"}


class Forwarder:
    """An ASGI application that sends each request to the process at `address`.

    `prefix` is taken off the path first. Redirects are answered, not followed. Headers in `kept_back` are not sent on.
    Raises UpstreamUnavailable where the process does not answer; `what` names it. Raises BodyTooLarge for a body longer
    than `find_limit(path)` bytes, None being no limit: an answer that the process gave in the middle of the body could
    be lost with the connection.
    """

    def __init__(
        self,
        what: str,
        address: str,
        prefix: str = "",
        find_limit: Callable[[str], int | None] = lambda _: None,
        kept_back: frozenset[bytes] = frozenset(),
    ) -> None:
        self._what = what
        self._address = httpx.URL(address)
        self._prefix = prefix.encode()
        self._find_limit = find_limit
        self._kept_back = kept_back
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            # The environment's proxy is for the outside world.
            trust_env=False,
            timeout=httpx.Timeout(_ANSWER_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, pool=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=20),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._find_limit(scope["path"])
        if limit is not None:
            check_declared_length(scope, limit)
        request = self._client.build_request(
            scope["method"],
            self._build_url(scope),
            headers=_build_headers(scope, self._kept_back),
            content=_stream_body(receive, limit) if _has_body(scope) else None,
        )
        # httpx adds its own where the caller sent none.
        for name in ("accept", "accept-encoding", "user-agent"):
            if not any(given == name.encode() for given, _ in scope["headers"]):
                request.headers.pop(name, None)
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            logger.warning("%s does not answer: %s", self._what, str(error) or type(error).__name__)
            raise UpstreamUnavailable(self._what) from error
        async with aclosing(answer):
            # Before anyone looks whether the client has left: who records answers has to be told of this one.
            await _begin(scope, answer, send)
            await _pass_on_while_read(answer, receive, send)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _build_url(self, scope: Scope) -> httpx.URL:
        path = scope.get("raw_path") or scope["path"].encode()
        path = path.removeprefix(self._prefix) or b"/"
        query = scope.get("query_string", b"")
        base = self._address.raw_path.rstrip(b"/")
        return self._address.copy_with(raw_path=base + path + (b"?" + query if query else b""))


async def _begin(scope: Scope, answer: httpx.Response, send: Send) -> None:
    headers = _drop(answer.headers.raw, _OURS_IN_ANSWER)
    scope[_ANSWERED_KEY] = True
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})


async def _pass_on_while_read(answer: httpx.Response, receive: Receive, send: Send) -> None:
    passing = asyncio.ensure_future(_pass_on(answer, send))
    leaving = asyncio.ensure_future(_wait_until_gone(receive))
    try:
        # A stream may be silent for long: only who asked for it says that nobody reads it any more.
        await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if passing.done():
            await passing
    finally:
        for task in (passing, leaving):
            task.cancel()
        await asyncio.gather(passing, leaving, return_exceptions=True)


async def _pass_on(answer: httpx.Response, send: Send) -> None:
    async for piece in answer.aiter_raw():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def is_answered_upstream(scope: Scope) -> bool:
    """Whether the answer to this request is that of the process it was forwarded to."""
    return _ANSWERED_KEY in scope


def _build_headers(scope: Scope, kept_back: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    given = dict(scope["headers"])
    client = scope.get("client")
    return [
        *_drop(scope["headers"], _OURS_IN_REQUEST | kept_back),
        (HEADER, get_request_id(scope).encode()),
        (b"x-forwarded-host", given.get(b"host", b"")),
        (b"x-forwarded-proto", scope["scheme"].encode()),
        (b"x-forwarded-for", str(client[0] if client else "").encode()),
    ]


def _drop(headers: Iterable[tuple[bytes, bytes]], ours: set[bytes]) -> list[tuple[bytes, bytes]]:
    lowered = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in lowered if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in lowered if name not in _HOP_BY_HOP | named | ours]


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def _stream_body(receive: Receive, limit: int | None) -> AsyncIterator[bytes]:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        if limit is not None and size > limit:
            raise BodyTooLarge(limit)
        yield piece
        if not message.get("more_body", False):
            return
