"""Rows over HTTP as JSON: each good row is stored, each bad row is rejected alone and named in the answer."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import Actor, DeclaredContract, OpenConnections
from control.row_bodies import CONTENT, MAX_LISTED, RejectedRow, RowsRoute, read_rows
from core.contract import Contract
from core.data_errors import RowsRejected
from core.errors import Fault
from core.principals import Role
from ingestion.batches import MAX_ROWS, Batch, BatchResult, store_batch
from ingestion.faults import RowFault
from web.principal import require

PATH = "/models/{model}/observations"
_NAME = "rows"


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


router = APIRouter(
    tags=["observations"],
    route_class=RowsRoute,
    responses=describe_problems(403, 404, 413),
    dependencies=[Depends(require(Role.OPERATOR))],
)


@router.post(
    PATH,
    status_code=201,
    summary="Bring in rows or a file of rows",
    response_model=RowsDocument,
    responses={200: {"model": RowsDocument, "description": "Some rows were stored; `rejected` names the others"}},
    openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
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
    total = _Total(contract)
    async for raw, entries in read_rows(request, connections.settings):
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
