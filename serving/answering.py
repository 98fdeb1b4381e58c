"""What every protocol of predictions shares around the data plane: how a body is read, a version found, an answer sent.

Small work is done on the event loop, long work in threads, and all of it within the process's bounds on time and on
predictions at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from core.serving_errors import AnswerTooSlow
from serving.admission import Admission
from serving.follower import Follower
from serving.loading import LoadedVersion
from serving.observing import note_model
from web.bodies import BodyTooSlow, parse_json, read_body
from web.request_ids import add_answer_headers

# Up to here a request is decoded and computed on the event loop, which is then held for less than a millisecond;
# handing it to a thread and back costs about 0.1 ms, more than one row takes. What is longer goes to a thread.
INLINE_MAX_BYTES = 8 * 1024
INLINE_MAX_ROW_MS = 1.0

JSON = b"application/json"


class Answering:
    """Reads bodies and sends predictions; `admission` is the context of each."""

    def __init__(self, follower: Follower, admission: Admission, *, max_body_bytes: int, timeout_s: float) -> None:
        self.admission = admission
        self._follower = follower
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; raises BodyTooLarge and BodyTooSlow."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await read_body(scope, receive, self._max_body_bytes)
        except TimeoutError:
            raise BodyTooSlow(self._timeout_s) from None

    async def parse(self, content: bytes) -> object:
        """The JSON of a body; raises InvalidJson."""
        if len(content) <= INLINE_MAX_BYTES:
            return parse_json(content)
        return await self.admission.compute(partial(parse_json, content))

    async def find_version(self, scope: Scope, model: str, version: int | str | None = None) -> LoadedVersion:
        """The version that serves the model, or the one asked for, loaded where it is not.

        It is on the answer and in the metrics from here on, whether the request is answered or refused.
        """
        loaded = self._follower.find_serving(model) if version is None else None
        # In the framework's threads: a download is not to hold those that compute.
        if version is not None:
            loaded = await run_in_threadpool(self._follower.get_version, model, version)
        elif loaded is None:
            loaded = await run_in_threadpool(self._follower.get_serving, model)
        name = [(b"x-model-name", loaded.model.encode()), (b"x-model-version", b"%d" % loaded.version)]
        add_answer_headers(scope, name)
        note_model(scope, loaded.model)
        return loaded

    async def send(
        self,
        send: Send,
        loaded: LoadedVersion,
        compute: Callable[[], bytes],
        content_bytes: int = 0,
        content_type: bytes = JSON,
        *,
        is_long: bool = False,
    ) -> None:
        """Send what `compute` makes of a body of `content_bytes`; raises AnswerTooSlow.

        `is_long` says that it waits for something else than the model.
        """
        if not is_long and content_bytes <= INLINE_MAX_BYTES and loaded.row_ms <= INLINE_MAX_ROW_MS:
            content = compute()
        else:
            try:
                async with asyncio.timeout(self._timeout_s):
                    content = await self.admission.compute(compute)
            except TimeoutError:
                raise AnswerTooSlow(loaded.model, loaded.version, self._timeout_s) from None
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class PlainRoute(APIRoute):
    """A route that the OpenAPI description shows, answered by a plain ASGI application.

    `describe` is never called: its parameters and docstring are what the description shows.
    """

    def __init__(
        self, path: str, answer: ASGIApp, describe: Callable[..., Awaitable[None]], **documented: object
    ) -> None:
        super().__init__(path, describe, **documented)  # type: ignore[arg-type]  # FastAPI's own keywords
        self.app = answer

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Take every method: the path alone decides."""
        match, matched = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), matched

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer whatever the method: the application refuses the others, in its own shape."""
        await self.app(scope, receive, send)
