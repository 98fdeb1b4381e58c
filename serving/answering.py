"""What every protocol of predictions shares around the data plane: how a body is read, a version found, an answer sent.

Small work is done on the event loop, long work in threads, and all of it within the process's bounds on time and on
predictions at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import MillraceError
from core.principals import Action, Role
from core.serving_errors import AnswerNotFinite, AnswerTooSlow, JournalFull, JournalUnwritable
from serving.admission import Admission
from serving.data_plane import DataPlane
from serving.follower import Follower
from serving.loading import LoadedVersion
from serving.observing import note_model
from serving.protocol_errors import EncodeError, ErrorsShaped
from web.bodies import parse_json, read_body_in_time
from web.principal import Requirement, RoleDoor, require
from web.request_ids import add_answer_headers, get_request_id

logger = logging.getLogger(__name__)

# Up to here a request is decoded and computed on the event loop, which is then held for less than a millisecond;
# handing it to a thread and back costs about 0.1 ms, more than one row takes. What is longer goes to a thread.
INLINE_MAX_BYTES = 8 * 1024
INLINE_MAX_ROW_MS = 1.0
_LOADS_AT_ONCE = 32

JSON = b"application/json"

PREDICT = require(Role.VIEWER, Action.PREDICT)
READ = require(Role.VIEWER)


class Answering:
    """Reads bodies and sends predictions; `admission` is the context of each."""

    def __init__(
        self, follower: Follower, data_plane: DataPlane, admission: Admission, *, max_body_bytes: int, timeout_s: float
    ) -> None:
        self.admission = admission
        self._follower = follower
        self._data_plane = data_plane
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._loading = CapacityLimiter(_LOADS_AT_ONCE)

    def read(self, scope: Scope, receive: Receive) -> Awaitable[bytes]:
        """The whole body; raises BodyTooLarge and BodyTooSlow."""
        return read_body_in_time(scope, receive, self._max_body_bytes, self._timeout_s)

    async def parse(self, content: bytes) -> object:
        """The JSON of a body; raises InvalidJson."""
        if len(content) <= INLINE_MAX_BYTES:
            return parse_json(content)
        return await self.admission.compute(partial(parse_json, content))

    async def find_version(self, scope: Scope, model: str, version: int | str | None = None) -> LoadedVersion:
        """The version that serves the model, or the one asked for, loaded where it is not.

        It is on the answer and in the metrics from here on, whether the request is answered or refused.
        """
        if version is None:
            loaded = self._follower.find_serving(model)
        else:
            loaded = self._follower.find_loaded(model, version) if isinstance(version, int) else None
        if loaded is None and version is None:
            loaded = await self.load_serving(model)
        elif loaded is None:
            loaded = await self._load(self._follower.get_version, model, version)
        add_answer_headers(scope, loaded.answer_headers)
        note_model(scope, loaded.model)
        return loaded

    async def load_serving(self, model: str) -> LoadedVersion:
        """The version that serves the model, loaded where it is not."""
        return await self._load(self._follower.get_serving, model)

    async def _load(self, get: Callable[..., LoadedVersion], *arguments: object) -> LoadedVersion:
        # In threads of its own: a download holds neither those that compute nor those that tell the process's health.
        return await to_thread.run_sync(get, *arguments, limiter=self._loading)

    async def send(
        self,
        scope: Scope,
        send: Send,
        loaded: LoadedVersion,
        compute: Callable[[], bytes],
        content_bytes: int = 0,
        content_type: bytes = JSON,
        *,
        is_long: bool = False,
    ) -> None:
        """Send what `compute` makes of a body of `content_bytes`; raises AnswerTooSlow.

        `is_long` says that it waits for something else than the model. What fails for reasons of the version is
        recorded as its failure.
        """
        try:
            if is_long or content_bytes > INLINE_MAX_BYTES or loaded.row_ms > INLINE_MAX_ROW_MS:
                content = await self._compute_in_thread(loaded, compute)
            else:
                content = compute()
        except (AnswerNotFinite, AnswerTooSlow) as error:
            self._note_failure(scope, loaded, error.sentence)
            raise
        except MillraceError:
            # The request's fault, or the platform's.
            raise
        except Exception as error:
            self._note_failure(scope, loaded, f"{type(error).__name__}: {error}")
            raise
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _compute_in_thread(self, loaded: LoadedVersion, compute: Callable[[], bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self.admission.compute(compute)
        except TimeoutError:
            raise AnswerTooSlow(loaded.model, loaded.version, self._timeout_s) from None

    def _note_failure(self, scope: Scope, loaded: LoadedVersion, reason: str) -> None:
        try:
            self._data_plane.note_failure(loaded, get_request_id(scope), reason)
        except (JournalFull, JournalUnwritable) as error:
            # Nothing was answered, so the client is told of the failure itself.
            logger.warning("a failure of version %s of %s is not counted: %s", loaded.version, loaded.model, error)


class PlainRoute(APIRoute):
    """A route that the OpenAPI description shows, answered by a plain ASGI application.

    `describe` is never called: its parameters and docstring are what the description shows. Errors are worded by
    `encode_error`, the refusal of a caller who lacks what is `required` (None: anybody may ask) among them.
    """

    def __init__(
        self,
        path: str,
        answer: ASGIApp,
        describe: Callable[..., Awaitable[None]],
        encode_error: EncodeError,
        required: Requirement | None,
        **documented: object,
    ) -> None:
        asked = {} if required is None else {"dependencies": [Depends(required)]}
        super().__init__(path, describe, **asked, **documented)  # type: ignore[arg-type]  # FastAPI's own keywords
        inner = answer if required is None else RoleDoor(answer, required)
        self.app = ErrorsShaped(inner, encode_error, sorted(self.methods or ()))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Take every method: the path alone decides."""
        match, matched = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), matched

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer whatever the method: the application refuses the others, in its own shape."""
        await self.app(scope, receive, send)
