"""The gate's verdicts over HTTP."""

import uuid
from collections.abc import Sequence
from datetime import datetime

from fastapi import APIRouter, Depends
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import DeclaredContract, Limit, OpenConnections
from core.principals import Role
from core.verdicts import VerdictOutcome, load_verdicts
from web.principal import require

router = APIRouter(tags=["verdicts"], responses=describe_problems(404), dependencies=[Depends(require(Role.VIEWER))])


class CheckDocument(Answer):
    """One check of the gate: what was measured and what it was held against."""

    name: str
    has_passed: bool
    value: float | None
    threshold: float | None
    reason: str


class VerdictDocument(Answer):
    """What the gate decided about one version; its checks are in the order in which it looked."""

    version: int
    champion_version: int | None = Field(description="The version that it was compared with")
    outcome: VerdictOutcome
    reason: str
    checks: Sequence[CheckDocument]
    approver: str | None = Field(
        None, description="The role that has to approve before the version takes Production; null where none has to"
    )


class StoredVerdictDocument(Answer):
    """One verdict of the model's history."""

    id: uuid.UUID
    decided_at: datetime
    verdict: VerdictDocument


@router.get("/models/{model}/verdicts", summary="What the gate decided")
def list_verdicts(
    contract: DeclaredContract, connections: OpenConnections, limit: Limit = 50
) -> list[StoredVerdictDocument]:
    """List the gate's verdicts on the model's versions, the newest first, check by check."""
    with connections.engine.connect() as connection:
        stored = load_verdicts(connection, contract.model, limit)
    return [StoredVerdictDocument.model_validate(one) for one in stored]
