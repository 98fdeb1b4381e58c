"""The audit log over HTTP, for administrators: page by page, and as a file."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, Field, StringConstraints
from starlette.responses import StreamingResponse

from control.documents import Answer, describe_problems
from control.requests import Limit, OpenConnections
from core.audit import LONGEST_TEXT, AuditFilter, Outcome, Process, iterate_entries, load_entries
from core.audit_export import MEDIA_TYPES, ExportForm, export_entries
from core.principals import Role
from web.principal import require

router = APIRouter(
    prefix="/audit",
    tags=["audit"],
    dependencies=[Depends(require(Role.ADMINISTRATOR))],
    responses=describe_problems(403),
)


_Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT, pattern=r"^[^\x00]*$")]
_LINES = {"schema": {"type": "string"}}


class AuditDocument(Answer):
    """One entry: who did what, when, from where, with what result."""

    id: int
    happened_at: datetime
    process: Process
    action: str = Field(description="Method and route, or the command")
    outcome: Outcome = Field(description="`refused` where the caller may not, or not now; `failed` for other errors")
    status: int | None = Field(description="HTTP status; null for a command")
    reason: str | None = Field(description="Kind of the error")
    actor: str | None
    role: str | None
    client: str | None = Field(description="Address of the caller")
    model: str | None
    target: str | None = Field(description="What of the model, or instead of it, as in `version 3 to Production`")
    request_id: str | None = Field(description="Of the first request, where `times` is more than one")
    times: int = Field(description="How many alike refusals the entry stands for")


class AuditPage(Answer):
    """Some entries, the newest first."""

    entries: Sequence[AuditDocument]
    next_before: int | None = Field(description="`before` of the next page; null on the last one")


def build_filter(
    actor: Annotated[_Text | None, Query(description="Whose entries")] = None,
    action: Annotated[_Text | None, Query(description="Any part of the action")] = None,
    model: Annotated[_Text | None, Query(description="The model that they are about")] = None,
    from_at: Annotated[AwareDatetime | None, Query(description="At this time or later")] = None,
    to_at: Annotated[AwareDatetime | None, Query(description="Before this time")] = None,
) -> AuditFilter:
    """The entries that a request asks for."""
    return AuditFilter(actor=actor, action=action, model=model, from_at=from_at, to_at=to_at)


_Form = Annotated[ExportForm, Query(description="JSON by line, or a table")]
Wanted = Annotated[AuditFilter, Depends(build_filter)]


@router.get("", summary="Who did what")
def list_entries(
    connections: OpenConnections,
    wanted: Wanted,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Ids below this one")] = None,
) -> AuditPage:
    """List every changing request, every refusal and every changing command, the newest first."""
    with connections.engine.connect() as connection:
        found = load_entries(connection, wanted, limit + 1, before)
    shown = [AuditDocument.model_validate(entry) for entry in found[:limit]]
    return AuditPage(entries=shown, next_before=shown[-1].id if len(found) > limit else None)


@router.get(
    "/export",
    summary="The log as a file",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/x-ndjson": _LINES, "text/csv": _LINES}, "description": "The oldest entry first"}
    },
)
def export(connections: OpenConnections, wanted: Wanted, form: _Form = "ndjson") -> StreamingResponse:
    """Download the entries as NDJSON, or as CSV in which a spreadsheet finds no formula."""
    return StreamingResponse(
        export_entries(iterate_entries(connections.engine, wanted), form),
        media_type=MEDIA_TYPES[form],
        headers={"Content-Disposition": f'attachment; filename="audit.{form}"'},
    )
