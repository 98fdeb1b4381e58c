"""Monitoring over HTTP: ask for a check, and read what checks found."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import Actor, DeclaredContract, Limit, OpenConnections
from core.checks import request_check
from core.findings import Finding, Outcome, get_finding, load_findings
from core.principals import Role
from web.principal import require

router = APIRouter(
    prefix="/models/{model}",
    tags=["monitoring"],
    responses=describe_problems(404),
)

FindingId = Annotated[uuid.UUID, Path(description="Id of the finding")]


class CheckJob(Answer):
    """A check that waits for a worker."""

    model: str
    job_id: uuid.UUID = Field(description="Id of the job")


class FindingDocument(Answer):
    """The result of one monitoring check."""

    id: uuid.UUID
    model: str
    version: int
    subject: str
    outcome: Outcome
    is_drifted: bool
    reasons: Sequence[str]
    statistic: float | None = Field(description="That of the feature that strayed furthest, in units of its threshold")
    threshold: float | None
    rows: int = Field(description="How many predictions were looked at")
    report: str | None = Field(None, description="Where its report is; null if it has none")
    training_id: uuid.UUID | None = Field(description="The training that it started, or met")
    window_from_at: datetime | None
    window_to_at: datetime | None
    found_at: datetime


class MeasuredFinding(FindingDocument):
    """The result of one monitoring check, with what was measured."""

    measure: Mapping[str, object] = Field(description="The whole measure, feature by feature")


def build_document(finding: Finding) -> MeasuredFinding:
    """The document of a finding; a route that lists findings leaves out what was measured."""
    document = MeasuredFinding.model_validate(finding)
    if finding.report_uri is not None:
        document.report = f"/models/{finding.model}/reports/{finding.id}"
    return document


@router.post(
    "/checks",
    status_code=202,
    summary="Ask for a drift check of the model",
    dependencies=[Depends(require(Role.OPERATOR))],
    responses=describe_problems(403, 404) | {202: {"description": "It is queued; Location says where to follow it"}},
)
def ask_for_check(
    contract: DeclaredContract, connections: OpenConnections, actor: Actor, response: Response
) -> CheckJob:
    """Queue a check of what the Production version served lately against its own training data."""
    with connections.engine.begin() as connection:
        job_id = request_check(connection, contract.model, actor=actor)
    response.headers["Location"] = f"/jobs/{job_id}"
    return CheckJob(model=contract.model, job_id=job_id)


@router.get(
    "/findings",
    summary="What checks found",
    response_model=list[FindingDocument],
    dependencies=[Depends(require(Role.VIEWER))],
)
def list_findings(contract: DeclaredContract, connections: OpenConnections, limit: Limit = 50) -> list[MeasuredFinding]:
    """List the model's findings, the newest first; what was measured is with each finding."""
    with connections.engine.connect() as connection:
        found = load_findings(connection, contract.model, limit=limit)
    return [build_document(finding) for finding in found]


@router.get(
    "/findings/{finding_id}", summary="One finding with its measure", dependencies=[Depends(require(Role.VIEWER))]
)
def show_finding(contract: DeclaredContract, connections: OpenConnections, finding_id: FindingId) -> MeasuredFinding:
    """Show what one check measured, what it decided and what it started."""
    with connections.engine.connect() as connection:
        return build_document(get_finding(connection, contract.model, finding_id))
