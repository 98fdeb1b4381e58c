"""The document of a transition, which several routes answer."""

import uuid
from datetime import datetime

from pydantic import Field

from control.documents import Answer
from core.transitions import TransitionCause, TransitionOrigin, TransitionState

LARGEST_VERSION = 2**31 - 1


class TransitionDocument(Answer):
    """One recorded change of stage: who or what, from, to, why, on which verdict."""

    id: int
    model: str
    version: int
    from_stage: str
    to_stage: str
    previous_version: int | None = Field(description="The version that was in Production before")
    state: TransitionState
    origin: TransitionOrigin = Field(description="`external` where it was moved in MLflow itself")
    actor: str
    cause: TransitionCause
    reason: str
    verdict_id: uuid.UUID | None
    finding_id: uuid.UUID | None = Field(description="The finding on which the platform rolled back")
    intended_at: datetime
    finished_at: datetime | None
