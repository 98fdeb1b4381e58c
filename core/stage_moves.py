"""The one writer of stages.

Under the model's lock, in this order: an intent is committed; MLflow moves the version, and where that is to Production
archives the one that was there and alias `production` follows; the intent is finished, serving notified and the lock
let go in one commit. A fault in between leaves the intent, which `core.reconciliation` or the next writer finishes or
undoes. The lock is taken before the intent is written, so that an open intent under the lock is one whose writer is
gone.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from core.database import TRANSITIONS_CHANNEL, lock_model, notify
from core.reconciliation import settle
from core.registry import PRODUCTION_STAGE, Registry
from core.transitions import Transition, TransitionCause, end_transition, store_transition

logger = logging.getLogger(__name__)

Guard = Callable[[Connection, int | None], None]
"""Raises where the caller may no longer move a stage; what it locks stays locked until the transition has ended."""


@dataclass(frozen=True)
class Writer:
    """The one who may move the model's stages now.

    The transaction of `connection` holds the model's lock; `production` is the version in Production, as settled.
    """

    engine: Engine
    registry: Registry
    model: str
    connection: Connection
    production: int | None

    def move(
        self,
        version: int,
        to_stage: str,
        *,
        actor: str,
        cause: TransitionCause,
        reason: str = "",
        verdict_id: uuid.UUID | None = None,
        finding_id: uuid.UUID | None = None,
    ) -> Transition:
        """Move the version to that stage; returns the finished transition, which the writer's end commits.

        Raises ModelVersionNotFound, TrackingUnavailable.
        """
        chosen = self.registry.get_version(self.model, version)
        # On a connection of its own: the intent stays when the writer's transaction does not.
        with self.engine.begin() as connection:
            intent = store_transition(
                connection,
                model=self.model,
                version=version,
                from_stage=chosen.stage,
                to_stage=to_stage,
                previous_version=self.production,
                state="intended",
                origin="platform",
                actor=actor,
                cause=cause,
                reason=reason,
                verdict_id=verdict_id,
                finding_id=finding_id,
            )
        self.registry.move_to_stage(self.model, version, to_stage)
        if to_stage == PRODUCTION_STAGE:
            self.registry.set_alias(self.model, version)
        finished = end_transition(self.connection, intent.id, "finished")
        notify(self.connection, TRANSITIONS_CHANNEL, self.model)
        logger.info("%s version %d is in %s; Production was %s", self.model, version, to_stage, self.production)
        return finished


@contextmanager
def writing_stages(engine: Engine, registry: Registry, model: str, guard: Guard | None = None) -> Iterator[Writer]:
    """Hold the model's lock for the length of the block, once what earlier writers left is settled.

    Raises what `guard` raises, and TrackingUnavailable; nothing is changed then.
    """
    with engine.begin() as held:
        lock_model(held, model)
        with engine.begin() as connection:
            production, _ = settle(connection, registry, model)
        if guard is not None:
            guard(held, production)
        yield Writer(engine, registry, model, held, production)
