"""Rows in the body of a request: JSON or NDJSON, read some thousand at a time."""

from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from typing import Any

import orjson
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from starlette.routing import Match

from control.documents import Answer
from core.settings import Settings
from ingestion.batches import MAX_ROWS
from ingestion.json_rows import Entry, MalformedJson, check_object, parse_json, read_lines
from web.bodies import BodyTooLarge, MalformedBody

MAX_LISTED = 100
"""Faults that one answer lists; all of them are kept."""
MAX_LINE_BYTES = 1 << 20
_BATCH_BYTES = 8 << 20
"""Lines are stored when there are so many bytes of them, whatever their number."""

_JSON, _NDJSON = "application/json", "application/x-ndjson"
CONTENT = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "string", "format": "binary"}},
            "required": ["file"],
        }
    },
    _JSON: {
        "schema": {"oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]},
    },
    _NDJSON: {"schema": {"type": "string", "description": "One JSON object a line"}},
}


class RejectedRow(Answer):
    """One broken rule of one row; `line` is the row's place in the body, from 1."""

    line: int | None
    column: str
    value: str
    rule: str


class RowsRoute(APIRoute):
    """Takes only requests whose body is JSON or NDJSON; the route of files is asked for every other."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        match, child = super().matches(scope)
        if match is Match.FULL and _find_media_type(scope) not in (_JSON, _NDJSON):
            return Match.NONE, {}
        return match, child


Lines = tuple[Sequence[bytes], Sequence[Entry]]
"""Raw lines and, one for one, what each was read as."""


def read_rows(request: Request, settings: Settings) -> AsyncIterator[Lines]:
    """The rows of the body, at most MAX_ROWS at a time; raises MalformedBody and BodyTooLarge."""
    if _find_media_type(request.scope) == _NDJSON:
        return _read_ndjson(request, settings.max_upload_bytes)
    return _read_json(request, settings.max_body_bytes)


async def _read_json(request: Request, max_bytes: int) -> AsyncIterator[Lines]:
    """The rows of one JSON document, at most MAX_ROWS at a time; raises MalformedBody and BodyTooLarge."""
    pieces = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLarge(max_bytes)
        pieces.append(piece)
    try:
        # In a thread, as all that takes long: other requests are answered meanwhile.
        document = await run_in_threadpool(parse_json, b"".join(pieces))
    except MalformedJson as error:
        raise MalformedBody(str(error)) from None
    rows = document if isinstance(document, list) else [document]
    for first in range(0, len(rows), MAX_ROWS):
        yield await run_in_threadpool(_check_rows, rows[first : first + MAX_ROWS])


def _check_rows(rows: Sequence[object]) -> Lines:
    return [_dump(row) for row in rows], [check_object(row, line) for line, row in enumerate(rows, start=1)]


def _dump(row: object) -> bytes:
    try:
        return orjson.dumps(row)
    except TypeError:
        # Half of a surrogate pair, or a number beyond 64 bits.
        return repr(row).encode("ascii", "backslashreplace")


async def _read_ndjson(request: Request, max_bytes: int) -> AsyncIterator[Lines]:
    """The lines of the body, at most MAX_ROWS at a time and never the whole of it; raises BodyTooLarge."""
    lines: list[bytes] = []
    begun = b""
    size = lines_bytes = 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLarge(max_bytes)
        *ended, begun = (begun + piece).split(b"\n")
        if len(begun) > MAX_LINE_BYTES:
            raise BodyTooLarge(MAX_LINE_BYTES)
        lines += ended
        lines_bytes += sum(map(len, ended))
        while len(lines) >= MAX_ROWS or lines_bytes >= _BATCH_BYTES:
            part, lines = lines[:MAX_ROWS], lines[MAX_ROWS:]
            lines_bytes = sum(map(len, lines))
            yield part, await run_in_threadpool(read_lines, part)
    lines.append(begun)
    for first in range(0, len(lines), MAX_ROWS):
        part = lines[first : first + MAX_ROWS]
        yield part, await run_in_threadpool(read_lines, part)


def _find_media_type(scope: Mapping[str, Any]) -> str:
    value = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return str(value.decode("latin-1").partition(";")[0].strip().lower())
