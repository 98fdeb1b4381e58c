"""Alerts over HTTP: what people were told of, and what is still so."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from control.documents import Answer, describe_problems
from control.requests import Limit, OpenConnections
from core.alerts import Channel, MessageState, Occasion, Severity, load_alerts, load_messages
from core.names import check_name
from core.principals import Role
from web.principal import require

router = APIRouter(tags=["monitoring"], responses=describe_problems(), dependencies=[Depends(require(Role.VIEWER))])


class MessageDocument(Answer):
    """What a channel was given to say."""

    channel: Channel
    occasion: Occasion
    state: MessageState
    attempts: int
    error: str | None = Field(description="Why it was not delivered, or is not wanted")
    delivered_at: datetime | None


class AlertDocument(Answer):
    """One alert: a cause that people are told of once, until it clears."""

    id: uuid.UUID
    model: str
    cause: str
    severity: Severity
    title: str
    reasons: Sequence[str]
    finding_id: uuid.UUID | None
    times: int = Field(description="How often the cause was met")
    raised_at: datetime
    cleared_at: datetime | None
    cleared_reason: str | None
    messages: list[MessageDocument] = Field(default_factory=list)


@router.get("/alerts", summary="What people were told of")
def list_alerts(
    connections: OpenConnections,
    limit: Limit = 50,
    model: Annotated[str | None, Query(description="Only this model's")] = None,
    is_open: Annotated[bool | None, Query(alias="open", description="Only those that are open, or are not")] = None,
) -> list[AlertDocument]:
    """List alerts, the newest first, with what became of their messages."""
    if model is not None:
        check_name("model", model)
    documents = []
    with connections.engine.connect() as connection:
        for alert in load_alerts(connection, model, is_open=is_open, limit=limit):
            document = AlertDocument.model_validate(alert)
            document.messages = [
                MessageDocument.model_validate(message) for message in load_messages(connection, alert.id)
            ]
            documents.append(document)
    return documents
