"""Reports over HTTP: pages that quote served data, and are never trusted as pages of ours."""

from fastapi import APIRouter, Depends
from starlette.responses import HTMLResponse, Response

from control.documents import describe_problems
from control.findings import FindingDocument, FindingId, MeasuredFinding, build_document
from control.requests import DeclaredContract, Limit, OpenConnections
from core.errors import ReportNotFound
from core.findings import get_finding, load_findings
from core.principals import Role
from web.principal import require

router = APIRouter(
    prefix="/models/{model}/reports",
    tags=["monitoring"],
    responses=describe_problems(404),
    dependencies=[Depends(require(Role.VIEWER))],
)

_MAX_REPORT_BYTES = 64 * 2**20
_RUN_SCHEME = "runs:/"

# `sandbox` without `allow-same-origin` gives the page an origin of its own, so that a script that came in with a value
# cannot act as this site; the rest keeps it from sending anything anywhere. A report carries all it needs inline.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, max-age=3600",
}


@router.get("", summary="Findings that have a report", response_model=list[FindingDocument])
def list_reports(contract: DeclaredContract, connections: OpenConnections, limit: Limit = 50) -> list[MeasuredFinding]:
    """List the model's findings whose report was written, the newest first."""
    with connections.engine.connect() as connection:
        found = load_findings(connection, contract.model, has_report=True, limit=limit)
    return [build_document(finding) for finding in found]


@router.get(
    "/{finding_id}",
    summary="The report of a finding, as a page",
    response_class=HTMLResponse,
    responses={
        200: {"description": "A page to open by itself or in a frame; its scripts are kept apart from this site"}
    },
)
def show_report(contract: DeclaredContract, connections: OpenConnections, finding_id: FindingId) -> Response:
    """Show the report that the check wrote, from the artifacts of the run that made the checked version."""
    with connections.engine.connect() as connection:
        finding = get_finding(connection, contract.model, finding_id)
    if finding.report_uri is None:
        raise ReportNotFound(contract.model, str(finding_id))
    run_id, _, path = finding.report_uri.removeprefix(_RUN_SCHEME).partition("/")
    page = connections.tracking.find_artifact(run_id, path, _MAX_REPORT_BYTES)
    if page is None:
        raise ReportNotFound(contract.model, str(finding_id))
    return HTMLResponse(page, headers=_PAGE_HEADERS)
