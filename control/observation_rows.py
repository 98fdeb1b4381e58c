"""Rows over HTTP as JSON: each good row is stored, each bad row is rejected alone and named in the answer."""

from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import Field
from starlette.routing import Match

from control.documents import Answer, describe_problems
from control.requests import Actor, DeclaredContract, OpenConnections
from core.contract import Contract
from core.data_errors import RowsRejected
from core.errors import Fault
from ingestion.batches import MAX_ROWS, Batch, BatchResult, store_batch
from ingestion.faults import RowFault
from ingestion.json_rows import Entry, MalformedJson, check_object, parse_json, read_lines
from web.bodies import BodyTooLarge, MalformedBody

PATH = "/models/{model}/observations"
MAX_LISTED = 100
"""Faults that one answer lists; all of them are kept."""
MAX_LINE_BYTES = 1 << 20
_BATCH_BYTES = 8 << 20
"""Lines are stored when there are so many bytes of them, whatever their number."""

_JSON, _NDJSON = "application/json", "application/x-ndjson"
_NAME = "rows"
_CONTENT = {
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


class RowsDocument(Answer):
    """What became of the rows. A file's answer has the first three and `ignored_columns`."""

    rows_new: int
    rows_changed: int
    rows_unchanged: int
    rows_repeated: int = Field(0, description="Rows that repeat key and values of another row of the body")
    rows_rejected: int = Field(0, description="Rows that were not stored")
    gaps: int = Field(0, description="Stored rows whose series lacks the step before them")
    ignored_columns: Sequence[str] = Field(description="Members or columns that the model does not have")
    rejected: Sequence[RejectedRow] = Field((), description=f"The first {MAX_LISTED} faults")
    source_ids: Sequence[UUID] = Field((), description=f"Under which the body is kept, {MAX_ROWS} lines each")


class _RowsRoute(APIRoute):
    """Takes only requests whose body is JSON or NDJSON; the route of files is asked for every other."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        match, child = super().matches(scope)
        if match is Match.FULL and _find_media_type(scope) not in (_JSON, _NDJSON):
            return Match.NONE, {}
        return match, child


router = APIRouter(tags=["observations"], route_class=_RowsRoute, responses=describe_problems(403, 404, 413))


@router.post(
    PATH,
    status_code=201,
    summary="Bring in rows or a file of rows",
    response_model=RowsDocument,
    responses={200: {"model": RowsDocument, "description": "Some rows were stored; `rejected` names the others"}},
    openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
)
async def add_observations(
    request: Request, response: Response, contract: DeclaredContract, connections: OpenConnections, actor: Actor
) -> RowsDocument:
    """Check rows against the model's contract and store them by key; sending the same again changes nothing.

    As JSON (an object or a list of them) or NDJSON (an object a line) each row is judged alone. 201: all rows are
    stored. 200: some are, and `rejected` names line, column, value and rule of the others. 422: none is. NDJSON is
    stored as it is read, some thousand lines at a time: after an answer that did not arrive, send it again.

    As a file (multipart, field `file`), all of it is stored or, with one bad row, nothing.
    """
    settings = connections.settings
    if _find_media_type(request.scope) == _NDJSON:
        batches = _read_ndjson(request, settings.max_upload_bytes)
    else:
        batches = _read_json(request, settings.max_body_bytes)
    total = _Total(contract)
    async for raw, entries in batches:
        if any(entry is not None for entry in entries):
            batch = Batch(raw, entries, kind="rest", name=_NAME, actor=actor)
            total.add(await run_in_threadpool(store_batch, connections.engine, contract, batch))
        total.lines += len(raw)
    document = total.build_document()
    response.status_code = 200 if document.rows_rejected else 201
    return document


class _Total:
    """The results of one body's batches, added up; lines are counted through the whole body."""

    def __init__(self, contract: Contract) -> None:
        self._model = contract.model
        self._results: list[BatchResult] = []
        self._rejected: list[RowFault] = []
        self.lines = 0

    def add(self, result: BatchResult) -> None:
        """The result of the batch that begins after the lines counted so far."""
        self._results.append(result)
        for fault in result.rejected[: MAX_LISTED - len(self._rejected)]:
            line = None if fault.line is None else fault.line + self.lines
            self._rejected.append(RowFault(line, fault.column, fault.value, fault.rule))

    def build_document(self) -> RowsDocument:
        """The answer; raises RowsRejected where no row was accepted."""
        if not sum(result.rows_accepted for result in self._results):
            faults = [fault.to_fault() for fault in self._rejected] or [
                Fault("the body", "no rows", "at least one row is needed")
            ]
            total = sum(len(result.rejected) for result in self._results)
            raise RowsRejected(self._model, _NAME, faults, max(total, 1))
        return RowsDocument(
            rows_new=sum(result.rows_new for result in self._results),
            rows_changed=sum(result.rows_changed for result in self._results),
            rows_unchanged=sum(result.rows_unchanged for result in self._results),
            rows_repeated=sum(result.rows_repeated for result in self._results),
            rows_rejected=sum(result.rows_rejected for result in self._results),
            gaps=sum(result.gaps for result in self._results),
            ignored_columns=sorted({name for result in self._results for name in result.ignored_columns}),
            rejected=[RejectedRow.model_validate(fault) for fault in self._rejected],
            source_ids=[result.source_id for result in self._results],
        )


_Lines = tuple[Sequence[bytes], Sequence[Entry]]


async def _read_json(request: Request, max_bytes: int) -> AsyncIterator[_Lines]:
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


def _check_rows(rows: Sequence[object]) -> _Lines:
    return [_dump(row) for row in rows], [check_object(row, line) for line, row in enumerate(rows, start=1)]


def _dump(row: object) -> bytes:
    try:
        return orjson.dumps(row)
    except TypeError:
        # Half of a surrogate pair, or a number beyond 64 bits.
        return repr(row).encode("ascii", "backslashreplace")


async def _read_ndjson(request: Request, max_bytes: int) -> AsyncIterator[_Lines]:
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
