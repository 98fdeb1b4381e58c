"""A model's history over HTTP: every transition with its evidence, and which version served at a time."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import DeclaredContract, Limit, OpenConnections
from control.transitions import TransitionDocument
from control.verdicts import VerdictDocument
from core.history import Evidence, load_evidence, load_served_at
from core.principals import Role
from core.transitions import Transition, load_history
from core.version_names import load_version_names
from web.principal import require

router = APIRouter(
    prefix="/models/{model}",
    tags=["history"],
    responses=describe_problems(404),
    dependencies=[Depends(require(Role.VIEWER))],
)

_LARGEST_ID = 2**63 - 1


class EvidenceDocument(Answer):
    """What a transition was decided on."""

    verdict: VerdictDocument | None = Field(description="The gate's verdict, check by check")
    training_id: uuid.UUID | None = Field(description="The training that made the version")
    training_cause: str | None
    run_id: str | None = Field(description="MLflow's run of that training")
    finding_id: uuid.UUID | None = Field(description="The finding that the training or the rollback followed from")
    finding_reasons: Sequence[str]


class RecordedTransition(TransitionDocument):
    """One change of stage, with what it was decided on and where that is shown."""

    version_name: str | None = Field(description="Name of the version")
    evidence: EvidenceDocument
    links: Mapping[str, str] = Field(description="Addresses: the version in MLflow's pages, the training, the finding")


class ServedDocument(Answer):
    """What was to serve a model at a time; serving follows a change within two seconds."""

    model: str
    at: datetime
    version: int | None = Field(description="What the target meant then; null if it meant nothing")
    version_name: str | None = Field(None, description="Name of that version")
    target: str
    target_set_by: str | None = Field(description="Who set the target; null where none was set by then")
    target_set_at: datetime | None
    production: int | None = Field(description="The version in Production then")
    transition: TransitionDocument | None = Field(description="What brought it there, or took the one before away")


@router.get("/history", summary="Every change of stage, and what it was decided on")
def list_transitions(
    contract: DeclaredContract,
    connections: OpenConnections,
    limit: Limit = 100,
    before: Annotated[
        int | None, Query(ge=1, le=_LARGEST_ID, description="Only those before the transition of this id")
    ] = None,
) -> list[RecordedTransition]:
    """List the model's changes of stage, the newest first, including those made in MLflow itself."""
    with connections.engine.connect() as connection:
        history = load_history(connection, contract.model, limit, before=before)
        evidence = load_evidence(connection, history)
        names = {version: name for name, version in load_version_names(connection, contract.model).items()}
    return [_build_recorded(one, evidence[one.id], names.get(one.version)) for one in history]


@router.get("/served", summary="Which version served at a time")
def show_served(
    contract: DeclaredContract,
    connections: OpenConnections,
    at: Annotated[datetime, Query(description="The time; without a zone it is UTC", examples=["2026-11-21T12:00:00Z"])],
) -> ServedDocument:
    """Show what was to serve the model at that time: the target that was set then, and the version that it meant."""
    with connections.engine.connect() as connection:
        served = load_served_at(connection, contract.model, at)
        names = {version: name for name, version in load_version_names(connection, contract.model).items()}
    document = ServedDocument.model_validate(served)
    document.version_name = None if served.version is None else names.get(served.version)
    return document


def _build_recorded(transition: Transition, evidence: Evidence, name: str | None) -> RecordedTransition:
    verdict = None if evidence.verdict is None else VerdictDocument.model_validate(evidence.verdict.verdict)
    document = EvidenceDocument(
        verdict=verdict,
        training_id=evidence.training_id,
        training_cause=evidence.training_cause,
        run_id=evidence.run_id,
        finding_id=evidence.finding_id,
        finding_reasons=evidence.finding_reasons,
    )
    return RecordedTransition(
        **TransitionDocument.model_validate(transition).model_dump(),
        version_name=name,
        evidence=document,
        links=build_links(transition, evidence),
    )


def build_links(transition: Transition, evidence: Evidence) -> dict[str, str]:
    """Where the transition's version and evidence are shown, below the platform's address."""
    links = {"version": f"/mlflow/#/models/{transition.model}/versions/{transition.version}"}
    if evidence.training_id is not None:
        links["training"] = f"/trainings/{evidence.training_id}"
    if evidence.finding_id is not None:
        links["finding"] = f"/models/{transition.model}/findings/{evidence.finding_id}"
    return links
