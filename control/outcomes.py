"""Outcomes over HTTP: rows or a file of them in, and the realised performance that comes of them out."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from control.documents import Answer, describe_problems
from control.observations import clean_name
from control.requests import Actor, DeclaredContract, OpenConnections
from control.row_bodies import CONTENT, MAX_LISTED, RejectedRow, RowsRoute, read_rows
from core.data_errors import RowsRejected
from core.errors import Fault
from core.outcomes import OutcomeTotals, load_totals
from core.performance import Period, VersionPerformance, load_performance
from core.principals import Role
from ingestion.batches import Batch
from ingestion.encodings import Encoding
from ingestion.faults import RowFault
from ingestion.outcomes import OutcomesResult, import_outcomes, store_outcomes
from web.bodies import BodyTooLarge
from web.principal import require

_PATH = "/models/{model}/outcomes"
_NAME = "outcomes"
_MOST_DAYS = 3_660

router = APIRouter(tags=["outcomes"], responses=describe_problems(403, 404))
_rows = APIRouter(
    tags=["outcomes"],
    route_class=RowsRoute,
    responses=describe_problems(403, 404, 413),
    dependencies=[Depends(require(Role.OPERATOR))],
)


class OutcomesDocument(Answer):
    """What became of the outcomes."""

    outcomes_new: int
    outcomes_corrected: int = Field(description="Those that replaced another value; the earlier one stays visible")
    outcomes_unchanged: int
    outcomes_repeated: int = Field(description="Rows that a later row of the same body stands for")
    outcomes_rejected: int
    outcomes_joined: int = Field(description="New and corrected ones whose prediction is there")
    outcomes_waiting: int = Field(description="Those whose prediction is not there yet; it is joined when it comes")
    ignored_columns: Sequence[str]
    rejected: Sequence[RejectedRow] = Field(description=f"The first {MAX_LISTED} faults")
    source_ids: Sequence[UUID] = Field(description="Under which the body is kept")


class RealisedDocument(Answer):
    """Realised error of one period, from `from_at` up to `to_at`."""

    from_at: datetime
    to_at: datetime
    rows: int = Field(description="Steps of predictions with an outcome")
    error: float | None
    lower: float | None = Field(description="Of the error's interval, by a moving-block bootstrap")
    upper: float | None
    baseline_error: float | None = Field(description="Of the version's baseline on the same rows")


class VersionPerformanceDocument(Answer):
    """What a version promised, and what came of it."""

    version: int
    metric: str
    error: float = Field(description="On the hold-out of its own evaluation")
    lower: float | None
    upper: float | None
    baseline_name: str
    baseline_error: float | None
    periods: Sequence[RealisedDocument]


class PerformanceDocument(Answer):
    """Realised performance of a model's versions by period, oldest first."""

    model: str
    by: Period
    unit: str = Field(description="Of the target")
    outcomes: OutcomeTotals
    versions: Sequence[VersionPerformanceDocument]


@_rows.post(
    _PATH,
    status_code=201,
    summary="Bring in outcomes, as rows or a file",
    response_model=OutcomesDocument,
    responses={200: {"model": OutcomesDocument, "description": "Some rows were taken; `rejected` names the others"}},
    openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
)
async def add_outcomes(
    request: Request, response: Response, contract: DeclaredContract, connections: OpenConnections, actor: Actor
) -> OutcomesDocument:
    """Say what came of predictions: each row has `prediction_id`, or the model's key, and the value.

    The value is in the target's column, or `value`; `step` says which of several steps ahead a `prediction_id` means,
    the first without it. A row that says the same again changes nothing, another value corrects the earlier one. Each
    bad row is rejected alone. 201: all rows are taken. 200: some are. 422: none is.
    """
    results: list[OutcomesResult] = []
    rejected: list[RowFault] = []
    lines = 0
    async for raw, entries in read_rows(request, connections.settings):
        if any(entry is not None for entry in entries):
            batch = Batch(raw, entries, kind="rest", name=_NAME, actor=actor)
            result = await run_in_threadpool(store_outcomes, connections.engine, contract, batch)
            results.append(result)
            for fault in result.rejected[: MAX_LISTED - len(rejected)]:
                line = None if fault.line is None else fault.line + lines
                rejected.append(RowFault(line, fault.column, fault.value, fault.rule))
        lines += len(raw)
    if not any(result.outcomes_accepted for result in results):
        faults = [fault.to_fault() for fault in rejected] or [Fault("the body", "no rows", "at least one is needed")]
        raise RowsRejected(contract.model, _NAME, faults, max(sum(one.outcomes_rejected for one in results), 1))
    document = _add_up(results, rejected)
    response.status_code = 200 if document.outcomes_rejected else 201
    return document


# Documented with the rows: OpenAPI has one operation for an address and a method.
@router.post(_PATH, status_code=201, include_in_schema=False, dependencies=[Depends(require(Role.OPERATOR))])
def add_file(
    response: Response,
    contract: DeclaredContract,
    connections: OpenConnections,
    actor: Actor,
    file: UploadFile,
    encoding: Annotated[Encoding | None, Form(description="Of a CSV file")] = None,
    sheet: Annotated[str | None, Form(description="Of a workbook; without it the first", max_length=100)] = None,
) -> OutcomesDocument:
    """Take a CSV, XLSX, Parquet or JSON file of outcomes; each bad row is rejected alone."""
    max_bytes = connections.settings.max_upload_bytes
    if file.size is None or file.size > max_bytes:
        raise BodyTooLarge(max_bytes)
    result = import_outcomes(
        connections.engine,
        contract,
        file.file,
        name=clean_name(file.filename),
        actor=actor,
        kind="rest",
        encoding=encoding,
        sheet=sheet,
        max_bytes=max_bytes,
    )
    response.status_code = 200 if result.outcomes_rejected else 201
    return _add_up([result], result.rejected)


def _add_up(results: Sequence[OutcomesResult], rejected: Sequence[RowFault]) -> OutcomesDocument:
    return OutcomesDocument(
        outcomes_new=sum(result.outcomes_new for result in results),
        outcomes_corrected=sum(result.outcomes_corrected for result in results),
        outcomes_unchanged=sum(result.outcomes_unchanged for result in results),
        outcomes_repeated=sum(result.outcomes_repeated for result in results),
        outcomes_rejected=sum(result.outcomes_rejected for result in results),
        outcomes_joined=sum(result.outcomes_joined for result in results),
        outcomes_waiting=sum(result.outcomes_waiting for result in results),
        ignored_columns=sorted({name for result in results for name in result.ignored_columns}),
        rejected=[RejectedRow.model_validate(fault) for fault in rejected],
        source_ids=[result.source_id for result in results],
    )


@router.get(
    "/models/{model}/performance",
    summary="Predicted against realised, by period",
    dependencies=[Depends(require(Role.VIEWER))],
)
def show_performance(
    contract: DeclaredContract,
    connections: OpenConnections,
    by: Annotated[Period, Query(description="The periods, in UTC; a week begins on Monday")] = "week",
    days: Annotated[int, Query(ge=1, le=_MOST_DAYS, description="How far back")] = 90,
) -> PerformanceDocument:
    """Compare every version's realised error, in the gate's metric, with its own evaluation and its baseline."""
    now = datetime.now(UTC)
    with connections.engine.connect() as connection:
        found = load_performance(connection, contract.model, by, now - timedelta(days=days), now)
        totals = load_totals(connection, contract.model)
    return PerformanceDocument(
        model=contract.model,
        by=by,
        unit=contract.column(contract.target).unit,
        outcomes=totals,
        versions=[_build_version(one) for one in found],
    )


def _build_version(found: VersionPerformance) -> VersionPerformanceDocument:
    promised = found.evaluation
    return VersionPerformanceDocument(
        version=promised.version,
        metric=promised.metric,
        error=promised.error,
        lower=promised.lower,
        upper=promised.upper,
        baseline_name=promised.baseline_name,
        baseline_error=promised.baseline_error,
        periods=[
            RealisedDocument(
                from_at=one.from_at,
                to_at=one.to_at,
                rows=one.realised.rows,
                error=one.realised.error,
                lower=one.realised.lower,
                upper=one.realised.upper,
                baseline_error=one.realised.baseline_error,
            )
            for one in found.periods
        ],
    )


# Before the route of files, which takes every other body.
routers = (_rows, router)
