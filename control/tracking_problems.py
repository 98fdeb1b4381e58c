"""Errors of the door in MLflow's own shape, so that its clients show the sentence."""

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from core.errors import MillraceError
from web.problems import build_logged_problem, note_error

# Source: MLflow's `mlflow/exceptions.py`, ERROR_CODE_TO_HTTP_STATUS.
_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    413: "INVALID_PARAMETER_VALUE",
    422: "INVALID_PARAMETER_VALUE",
    429: "REQUEST_LIMIT_EXCEEDED",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
}
_OURS = ("content-length", "content-type")


def build_tracking_problem(error: MillraceError | HTTPException, scope: Scope) -> Response:
    """The answer to a request that the door does not let through, with the status that `web.problems` gives it."""
    if isinstance(error, HTTPException):
        note_error(scope, "request-refused")
        return _build(error.status_code, str(error.detail), dict(error.headers or {}))
    problem = build_logged_problem(error, scope)
    headers = {name: value for name, value in problem.headers.items() if name not in _OURS}
    return _build(problem.status_code, orjson.loads(bytes(problem.body))["detail"], headers)


def _build(status: int, message: str, headers: dict[str, str]) -> Response:
    document = {"error_code": _CODES.get(status, "INTERNAL_ERROR"), "message": message}
    return Response(orjson.dumps(document), status, headers, "application/json")
