"""Bodies of requests: size, media type and JSON, read for routes that take the parsed object as it is."""

import asyncio
import json
import re
import types
from collections.abc import Coroutine, Generator
from typing import Any, NoReturn, TypeVar

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from core.errors import InvalidInput, show_value

_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9!#$&^_.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_EXACT_INTEGER_DIGITS = 18

Result = TypeVar("Result")


class MalformedBody(InvalidInput):
    """The body is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The body is not JSON: {reason}. Send one JSON document in UTF-8.")


class WrongMediaType(InvalidInput):
    """The body says that it is something else than what is taken."""

    def __init__(self, received: str, taken: str = "JSON with Content-Type: application/json") -> None:
        super().__init__(f"The content type {show_value(received)} is not taken here; send {taken}.")


class BodyTooLarge(InvalidInput):
    """The body is longer than allowed; it was not read to its end."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__(f"The body is larger than the {max_bytes} bytes that are taken at once; send it in parts.")

    def facts(self) -> dict[str, object]:
        return {"max_bytes": self.max_bytes}


class BodyTooSlow(InvalidInput):
    """The body did not come to its end in time."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"The body did not arrive whole within {timeout_s:g} s; send it faster, or in parts.")


def check_json_type(scope: Scope) -> None:
    """Raise WrongMediaType where the request names a content type that is not JSON's, or an encoding of it."""
    for name, value in scope["headers"]:
        if name == b"content-type" and value and not _JSON_TYPE.fullmatch(value):
            raise WrongMediaType(value.decode("latin-1"))
        if name == b"content-encoding" and value.lower() != b"identity":
            raise WrongMediaType(f"{value.decode('latin-1')} (content encoding)")


def check_declared_length(scope: Scope, max_bytes: int) -> None:
    """Raise BodyTooLarge where the request says that its body is longer than `max_bytes`."""
    # The server has refused a Content-Length that is not a number.
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > max_bytes:
            raise BodyTooLarge(max_bytes)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is longer than `max_bytes`, before the rest is read."""
    check_declared_length(scope, max_bytes)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLarge(max_bytes)
        if not message.get("more_body", False):
            return piece if not pieces else b"".join([*pieces, piece])
        pieces.append(piece)


async def read_body_in_time(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """The same; raises BodyTooSlow too, where the body is not there whole after `timeout_s`."""
    reading = read_body(scope, receive, max_bytes)
    try:
        # A body that came with the head of its request is there at once. Setting a timer takes longer than reading it.
        waited_for = reading.send(None)
    except StopIteration as done:
        body: bytes = done.value
        return body
    try:
        async with asyncio.timeout(timeout_s):
            return await _resume(reading, waited_for)
    except TimeoutError:
        raise BodyTooSlow(timeout_s) from None


@types.coroutine
def _resume(begun: Coroutine[Any, Any, Result], waited_for: object) -> Generator[Any, Any, Result]:
    """Await the rest of a coroutine that was begun by hand, and waits for what it gave."""
    while True:
        try:
            try:
                sent = yield waited_for
            except BaseException as error:  # noqa: BLE001  passed on, whatever it is
                waited_for = begun.throw(error)
            else:
                waited_for = begun.send(sent)
        except StopIteration as done:
            result: Result = done.value
            return result


def parse_json(body: bytes) -> object:
    """The JSON document in `body`; raises MalformedBody.

    NaN, Infinity and numbers beyond a double are no JSON, but they come as not-finite floats, so that the contract's
    check names the place where they stand.
    """
    try:
        document: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return _parse_lenient(body, error)
    return document


def _parse_lenient(body: bytes, first: orjson.JSONDecodeError) -> object:
    try:
        document: object = json.loads(body, parse_int=_parse_integer)
        # A text with half a surrogate pair is no text: neither an answer nor the journal could repeat it.
        orjson.dumps(document)
    except RecursionError:
        raise MalformedBody("it is nested too deeply") from None
    except (ValueError, orjson.JSONEncodeError):
        _refuse(first)
    return document


def _parse_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _EXACT_INTEGER_DIGITS else float(digits)


def _refuse(error: orjson.JSONDecodeError) -> NoReturn:
    raise MalformedBody(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
