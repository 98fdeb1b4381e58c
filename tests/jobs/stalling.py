"""A way to the tracking server on which a request can be held back, before or after the server has done it."""

import asyncio
import threading
from collections.abc import Callable

from starlette.types import Message, Receive, Scope, Send

from web.forwarding import Forwarder
from web.request_ids import assign_request_id

Matches = Callable[[str, str, bytes], bool]
"""Told the method, the path and, of a POST, the body of a request."""


class StallingWay:
    """Forwards every request, but for the first one that fits what it was armed with: nobody ever hears of that one.

    With `is_done` the server is asked all the same, as when an answer is lost. `reached` is set while the request is
    held; it is dropped when `let_go` is called.
    """

    def __init__(self, address: str) -> None:
        self._forwarder = Forwarder("tracking", address)
        self._armed: tuple[Matches, bool] | None = None
        self._released = threading.Event()
        self.reached = threading.Event()

    def arm(self, matches: Matches, *, is_done: bool) -> None:
        """Hold the next request that fits."""
        self.reached.clear()
        self._released.clear()
        self._armed = (matches, is_done)

    def let_go(self) -> None:
        """Drop what is held, and hold nothing more."""
        self._armed = None
        self._released.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assign_request_id(scope)
        body = await _read_body(receive) if scope["method"] == "POST" else b""
        again = _replay(body, receive) if scope["method"] == "POST" else receive
        armed = self._armed
        if armed is None or not armed[0](scope["method"], scope["path"], body):
            await self._forwarder(scope, again, send)
            return
        self._armed = None
        if armed[1]:
            await self._forwarder(scope, again, _swallow)
        self.reached.set()
        await asyncio.to_thread(self._released.wait)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._forwarder.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _swallow(_message: Message) -> None:
    pass


async def _read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    has_given = False

    async def give() -> Message:
        nonlocal has_given
        if has_given:
            return await receive()
        has_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give
