"""Errors in the shape of another protocol. Which status an error has is decided in `web.problems` all the same."""

import logging
from collections.abc import Callable, Sequence

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import MillraceError
from web.problems import MethodNotAllowed, build_internal_problem, build_logged_problem, note_error
from web.request_ids import get_request_id

logger = logging.getLogger(__name__)

_KEPT_HEADERS = ("allow", "connection", "retry-after", "www-authenticate")

EncodeError = Callable[[int, str], tuple[int, bytes]]
"""From our status and sentence to the status and the JSON document of the protocol."""


class ErrorsShaped:
    """Answers the errors of `app`, as `encode` words them; one is that the method is none of `methods`.

    Nothing of an error that is not ours is told.
    """

    def __init__(self, app: ASGIApp, encode: EncodeError, methods: Sequence[str]) -> None:
        self._app = app
        self._encode = encode
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = get_request_id(scope)
        try:
            self._check_method(scope)
            await self._app(scope, receive, send)
            return
        except ClientDisconnect:
            raise
        except MillraceError as error:
            problem = build_logged_problem(error, scope)
        except Exception as error:  # logged below, and told in the protocol's own shape
            problem = build_internal_problem(request_id)
            note_error(scope, "internal-error")
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"], exc_info=error)
        status, content = self._encode(problem.status_code, orjson.loads(problem.body)["detail"])
        headers = {name: problem.headers[name] for name in _KEPT_HEADERS if name in problem.headers}
        await Response(content, status, headers, "application/json")(scope, receive, send)

    def _check_method(self, scope: Scope) -> None:
        if scope["method"] not in self._methods:
            raise MethodNotAllowed(scope["method"], scope["path"], self._methods)
