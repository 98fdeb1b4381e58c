"""HTTP problem details (RFC 9457): the one place where errors become status codes and documents.

Members of a document: `type` (relative to the api's address), `title`, `status`, `detail` (the error's own sentence),
`instance` (the request), `request_id`, and the error's facts.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.account_errors import (
    Forbidden,
    SignInFailed,
    SignInRequestRejected,
    SignInThrottled,
    Unauthenticated,
)
from core.errors import Conflict, Fault, InvalidInput, MillraceError, NotFound, Unavailable, show_faults, show_value
from core.serving_errors import AnswerNotFinite, AnswerTooSlow, Overloaded
from core.tracking_errors import TrackingDenied, TransferPastTheDoor
from web.bodies import BodyTooLarge, BodyTooSlow, MalformedBody, WrongMediaType
from web.request_ids import HEADER, assign_request_id, get_answer_headers, get_request_id

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

_CLIENT_CLOSED_REQUEST = 499
_KIND_KEY = "millrace.error_kind"

Observe = Callable[[Scope, int, float], None]
Record = Callable[[Scope, int], Awaitable[None]]


class MethodNotAllowed(InvalidInput):
    """The address is there, but not for this method."""

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(f"{method} is not allowed at {show_value(path, 200)}; send {' or '.join(self.allowed)}.")


class InvalidFields(InvalidInput):
    """Fields of a request to a typed route are missing or wrong."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"The request is not what this route takes: {show_faults(self.faults)}.")

    def facts(self) -> dict[str, object]:
        return {"errors": [{"where": f.where, "value": f.value, "rule": f.rule} for f in self.faults]}


# The first class that fits decides; what fits none is an internal error, whose sentence may name paths.
_STATUSES: Sequence[tuple[type[MillraceError], int]] = (
    (MalformedBody, 400),
    # What OAuth 2 (RFC 6749, section 5.2) answers these with.
    (SignInFailed, 400),
    (SignInRequestRejected, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (MethodNotAllowed, 405),
    (BodyTooSlow, 408),
    (BodyTooLarge, 413),
    (WrongMediaType, 415),
    (InvalidInput, 422),
    (NotFound, 404),
    (Conflict, 409),
    (SignInThrottled, 429),
    (TrackingDenied, 403),
    (TransferPastTheDoor, 501),
    (Overloaded, 429),
    (AnswerTooSlow, 504),
    (Unavailable, 503),
    (AnswerNotFinite, 500),
)


def install_problem_details(app: FastAPI, observe: Observe | None = None, record: Record | None = None) -> None:
    """Answer every error of `app` as a problem document and every request with its X-Request-ID.

    `observe` is told of every answer: the request's scope, the status and the seconds that it took. `record` is awaited
    with scope and status before an answer begins.
    """
    app.add_exception_handler(MillraceError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_fields)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_middleware(RequestDoor, observe=observe, record=record)


def build_problem(error: MillraceError, request_id: str) -> Response:
    """The problem document of an error that Millrace words itself."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        return build_internal_problem(request_id)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(getattr(error, "retry_after_s", RETRY_AFTER_S))
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if status in (408, 413):
        # The rest of the body is not read, so nothing after it on this connection can be.
        headers["Connection"] = "close"
    return _respond(status, name_problem(error), error.sentence, request_id, headers=headers, error=error)


def build_logged_problem(error: MillraceError, scope: Scope) -> Response:
    """The same, noted for those who observe, and logged where it is ours."""
    request_id = get_request_id(scope)
    response = build_problem(error, request_id)
    note_error(scope, name_problem(error))
    if response.status_code == 500:
        logger.error("request %s failed: %s", request_id, error.sentence, exc_info=error)
    return response


def name_problem(error: Exception) -> str:
    """The last part of the problem's `type`, as in `journal-full`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__).lower()


def build_internal_problem(request_id: str) -> Response:
    """The document of an error that is ours: it says nothing about the inside."""
    sentence = f"The request could not be completed. The log of the process says why, under request id {request_id}."
    return _respond(500, "internal-error", sentence, request_id)


class RequestDoor:
    """Gives each request its id, puts it on the answer, and turns what nothing else handled into a problem document."""

    def __init__(self, app: ASGIApp, observe: Observe | None = None, record: Record | None = None) -> None:
        self._app = app
        self._observe = observe
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        request_id = assign_request_id(scope)
        header = (HEADER, request_id.encode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._record is not None:
                    await self._record(scope, status)
                message["headers"] = [*message.get("headers", ()), header, *get_answer_headers(scope)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except MillraceError as error:
            # Of the plain applications that stand before the framework.
            if status:
                raise
            await build_logged_problem(error, scope)(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.info("the client of request %s went away before its body was read", request_id)
            if not status:
                await send_with_id({"type": "http.response.start", "status": _CLIENT_CLOSED_REQUEST, "headers": []})
                await send_with_id({"type": "http.response.body", "body": b""})
        except Exception:
            if status:
                raise
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            note_error(scope, "internal-error")
            await build_internal_problem(request_id)(scope, receive, send_with_id)
        finally:
            if self._observe is not None:
                self._observe(scope, status, time.perf_counter() - started_s)


def note_error(scope: Scope, kind: str) -> None:
    """Note what kind of error the request is answered with, for those who observe."""
    scope[_KIND_KEY] = kind


def find_error_kind(scope: Scope) -> str | None:
    """What was noted; None for a request without an error of ours."""
    kind: str | None = scope.get(_KIND_KEY)
    return kind


async def _answer_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, MillraceError):
        raise error
    return build_logged_problem(error, request.scope)


async def _answer_invalid_fields(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first, *_ = faults = [_word_fault(fault) for fault in error.errors()]
    if first.rule.startswith("JSON decode error"):
        return build_problem(MalformedBody(first.rule), get_request_id(request.scope))
    return build_problem(InvalidFields(faults), get_request_id(request.scope))


def _word_fault(fault: Mapping[str, object]) -> Fault:
    place = fault.get("loc", ())
    parts = [str(part) for part in place] if isinstance(place, list | tuple) else [str(place)]
    # The first part says where the field came from (body, path, query); a name alone is clearer, where there is one.
    where = ".".join(parts[1:]) or ".".join(parts)
    value = "nothing" if fault.get("type") == "missing" else show_value(fault.get("input"))
    rule = str(fault.get("msg", "it is not allowed"))
    if fault.get("type") == "json_invalid":
        rule = "JSON decode error"
    return Fault(where, value, rule)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    request_id = get_request_id(request.scope)
    if status == 405:
        # The router names the methods in the header alone.
        allowed = (error.headers or {}).get("Allow", "").split(", ")
        return build_problem(MethodNotAllowed(request.method, request.url.path, sorted(allowed)), request_id)
    if status == 404:
        return _respond(404, "not-found", f"There is nothing at {show_value(request.url.path, 200)}.", request_id)
    return _respond(status, "request-refused", str(error.detail), request_id, headers=error.headers)


def _respond(
    status: int,
    name: str,
    detail: str,
    request_id: str,
    *,
    headers: Mapping[str, str] | None = None,
    error: MillraceError | None = None,
) -> Response:
    document = {
        **(error.facts() if error else {}),
        "type": f"/problems/{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": f"urn:millrace:request:{request_id}",
        "request_id": request_id,
    }
    return Response(orjson.dumps(document), status, dict(headers or {}), PROBLEM_TYPE)
