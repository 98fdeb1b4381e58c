"""Rejected rows over HTTP, page by page."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import DeclaredContract, Limit, OpenConnections
from core.principals import Role
from ingestion.rejected import load_rejected
from web.principal import require

router = APIRouter(
    tags=["observations"],
    responses=describe_problems(404),
    dependencies=[Depends(require(Role.VIEWER))],
)


class RejectedRowDocument(Answer):
    """One broken rule of one row, or of a whole source."""

    id: int
    rejected_at: datetime
    source_id: uuid.UUID
    source: str = Field(description="Name of the file or batch")
    form: str = Field(description="csv, xlsx, parquet, or rows")
    line: int | None = Field(description="Counted from 1 as an editor does; null where it is about the whole source")
    column: str
    value: str
    rule: str = Field(description="What is allowed")


class RejectedPage(Answer):
    """Some rejected rows, the newest first."""

    rows: Sequence[RejectedRowDocument]
    next_before: int | None = Field(description="`before` of the next page; null on the last one")


@router.get("/models/{model}/rejected", summary="What was rejected")
def list_rejected(
    contract: DeclaredContract,
    connections: OpenConnections,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Ids below this one")] = None,
) -> RejectedPage:
    """List the rows that were rejected and not replayed since, with column, value, rule and line."""
    with connections.engine.connect() as connection:
        rows = load_rejected(connection, contract.model, limit + 1, before)
    shown = [RejectedRowDocument.model_validate(row) for row in rows[:limit]]
    return RejectedPage(rows=shown, next_before=shown[-1].id if len(rows) > limit else None)
