"""How much a request may send: decided by its route, and enforced before the body is read to its end."""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.bodies import BodyTooLarge
from web.problems import build_problem
from web.request_ids import get_request_id


class BodyLimit:
    """An ASGI middleware that answers 413 to a body longer than `find_limit(path)` bytes; None is no limit.

    What is over the limit is not read, whether its length was declared or it comes in pieces.
    """

    def __init__(self, app: ASGIApp, find_limit: Callable[[str], int | None]) -> None:
        self._app = app
        self._find_limit = find_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._find_limit(scope["path"]) if scope["type"] == "http" else None
        if limit is None:
            await self._app(scope, receive, send)
            return
        refusal = build_problem(BodyTooLarge(limit), get_request_id(scope))
        if _get_declared_length(scope) > limit:
            await refusal(scope, receive, send)
            return
        size = 0
        has_started = False

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise BodyTooLarge(limit)
            return message

        # The framework answers whatever fails while it reads a body with a 400 of its own: this answer replaces it.
        async def send_within_limit(message: Message) -> None:
            nonlocal has_started
            if size <= limit or has_started:
                has_started = True
                await send(message)

        await self._app(scope, receive_within_limit, send_within_limit)
        if size > limit and not has_started:
            await refusal(scope, receive, send)


def _get_declared_length(scope: Scope) -> int:
    # The server has refused a Content-Length that is not a number.
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
