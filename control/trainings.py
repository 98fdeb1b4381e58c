"""Trainings over HTTP: ask for one, and follow it to its verdict."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import Field, StrictFloat, StrictInt, StringConstraints
from sqlalchemy import Connection

from control.documents import Answer, Order, describe_problems
from control.requests import Actor, DeclaredContract, Limit, OpenConnections
from control.verdicts import VerdictDocument
from core.contract import Contract
from core.errors import ParameterRejected
from core.names import check_name
from core.parameters import check_parameters
from core.principals import Role
from core.trainings import (
    CONTINUE,
    VERSION_NAME,
    Cause,
    Training,
    TrainingState,
    get_training,
    load_trainings,
    request_training,
)
from core.verdicts import find_verdict
from core.version_names import check_name_is_free
from web.principal import require

router = APIRouter(tags=["trainings"], responses=describe_problems())

_LARGEST_EXACT = 2**53

Mode = Literal["continue", "anew"]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ParameterValue = (
    Annotated[StrictInt, Field(ge=-_LARGEST_EXACT, le=_LARGEST_EXACT)]
    | Annotated[StrictFloat, Field(ge=-_LARGEST_EXACT, le=_LARGEST_EXACT)]
)


class TrainingOrder(Order):
    """What the training is to do otherwise than the workload declares."""

    parameters: dict[ParameterName, ParameterValue] = Field(
        default_factory=dict,
        max_length=100,
        description="Values of the workload's parameters, over its defaults",
        examples=[{"max_epochs": 5}],
    )
    version_name: str | None = Field(
        default=None,
        max_length=63,
        description="Name of the version; the day's, YYYYMMDD, without it",
        examples=["1.0.0"],
    )
    mode: Mode = Field(
        default="anew", description="Train anew on all rows, or continue the weights of the version in Production"
    )
    run_id: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{32}$",
        description="A running MLflow run of the model's experiment that is to be the training's own",
    )


class TrainingDocument(Answer):
    """One training: from its request to its verdict."""

    id: uuid.UUID
    model: str
    state: TrainingState
    step: str = Field(description="What it does now, or did last")
    progress: float = Field(ge=0, le=1, description="How far it is, from 0 to 1")
    cause: Cause
    actor: str = Field(description="Who or what asked for it")
    parameters: Mapping[str, object]
    attempt: int = Field(description="How often it was begun")
    finding_id: uuid.UUID | None = Field(description="The finding that asked for it")
    source_id: uuid.UUID | None = Field(description="The uploaded file that it came with")
    snapshot_digest: str | None = Field(description="The training set")
    run_id: str | None = Field(description="MLflow's run")
    version: int | None = Field(description="The version that it registered")
    verdict_id: uuid.UUID | None
    verdict: VerdictDocument | None = Field(None, description="What the gate decided, check by check")
    error: str | None = Field(description="Why it failed")
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def build_document(connection: Connection, training: Training) -> TrainingDocument:
    """The training as it is, with its verdict where it has one."""
    document = TrainingDocument.model_validate(training)
    verdict = None if training.verdict_id is None else find_verdict(connection, training.verdict_id)
    if verdict is not None:
        document.verdict = VerdictDocument.model_validate(verdict)
    return document


def check_can_continue(contract: Contract) -> int:
    """The value of CONTINUE that continues the champion's weights; raises ParameterRejected for a ranking."""
    if contract.kind == "ranking":
        raise ParameterRejected("mode", "continue", "a ranking is always trained anew from all rows; leave mode out")
    return 1


@router.post(
    "/models/{model}/trainings",
    status_code=202,
    summary="Ask for a training of the model",
    dependencies=[Depends(require(Role.OPERATOR))],
    responses=describe_problems(403, 404, 409)
    | {
        200: {"model": TrainingDocument, "description": "One was queued or running already: this one"},
        202: {"description": "A new training is queued; Location says where to follow it"},
    },
)
def ask_for_training(
    contract: DeclaredContract,
    connections: OpenConnections,
    actor: Actor,
    response: Response,
    order: TrainingOrder | None = None,
) -> TrainingDocument:
    """Queue a training on the observations that are stored when it begins.

    At most one training of a model is queued or running. The version that it makes reaches Production only if the
    gate lets it.
    """
    order = order or TrainingOrder()
    parameters: dict[str, object] = dict(check_parameters(contract.parameters, order.parameters))
    if order.mode == "continue":
        parameters[CONTINUE] = check_can_continue(contract)
    with connections.engine.begin() as connection:
        if order.version_name is not None:
            parameters[VERSION_NAME] = check_name_is_free(connection, contract.model, order.version_name)
        training, is_new = request_training(
            connection,
            contract.model,
            cause="hand" if order.run_id is None else "project",
            actor=actor,
            parameters=parameters,
            run_id=order.run_id,
        )
        if is_new and order.run_id is not None:
            # In the transaction: without its run there is no training.
            connections.tracking.adopt_run(order.run_id, contract.model, str(training.id))
        document = build_document(connection, training)
    response.status_code = 202 if is_new else 200
    response.headers["Location"] = f"/trainings/{training.id}"
    return document


@router.get("/trainings", summary="The most recent trainings", dependencies=[Depends(require(Role.VIEWER))])
def list_trainings(
    connections: OpenConnections,
    limit: Limit = 50,
    model: Annotated[str | None, Query(description="Only this model's")] = None,
) -> list[TrainingDocument]:
    """List trainings of every state, the most recent request first; their verdicts are with each training."""
    if model is not None:
        check_name("model", model)
    with connections.engine.connect() as connection:
        return [TrainingDocument.model_validate(training) for training in load_trainings(connection, model, limit)]


@router.get(
    "/trainings/{training_id}",
    summary="One training with its verdict",
    responses=describe_problems(404),
    dependencies=[Depends(require(Role.VIEWER))],
)
def show_training(
    training_id: Annotated[uuid.UUID, Path(description="Id of the training")], connections: OpenConnections
) -> TrainingDocument:
    """Show where a training is, what it made and what the gate decided."""
    with connections.engine.connect() as connection:
        return build_document(connection, get_training(connection, training_id))
