"""The id of a request, and the headers that every answer to it carries.

The id is taken from the request's X-Request-ID where that is plain, else made.
"""

import os
import re

from starlette.types import Scope

HEADER = b"x-request-id"
_SCOPE_KEY = "millrace.request_id"
_HEADERS_KEY = "millrace.answer_headers"
_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def assign_request_id(scope: Scope) -> str:
    """Give the request its id: the caller's, if it is 1 to 64 letters, digits, dots, dashes or underscores."""
    request_id = None
    for name, value in scope["headers"]:
        if name == HEADER and _PLAIN.fullmatch(value):
            request_id = value.decode()
    if request_id is None:
        request_id = os.urandom(16).hex()
    scope[_SCOPE_KEY] = request_id
    return request_id


def get_request_id(scope: Scope) -> str:
    """The id that `assign_request_id` gave."""
    return str(scope[_SCOPE_KEY])


def add_answer_headers(scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
    """Put headers on the answer of this request, whether it succeeds or not."""
    scope[_HEADERS_KEY] = [*scope.get(_HEADERS_KEY, ()), *headers]


def get_answer_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers that were added so far."""
    headers: list[tuple[bytes, bytes]] = scope.get(_HEADERS_KEY, [])
    return headers
