"""Promotion: the one writer of stages.

Under the model's lock, in this order: an intent is committed; MLflow moves the version to Production and archives the
one that was there; alias `production` follows; the intent is finished, serving notified and the lock let go in one
commit. A fault in between leaves the intent, which `core.reconciliation` or the next promotion finishes or undoes.
The lock is taken before the intent is written, so that an open intent under the lock is one whose promoter is gone.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from core.database import TRANSITIONS_CHANNEL, lock_model, notify
from core.errors import NothingToRollBackTo, ParameterRejected, VerdictStands
from core.reconciliation import settle
from core.registry import PRODUCTION_STAGE, Registry
from core.transitions import (
    Transition,
    TransitionCause,
    end_transition,
    find_last_finished,
    load_history,
    store_transition,
)
from core.verdicts import find_last_verdict

logger = logging.getLogger(__name__)

Guard = Callable[[Connection, int | None], None]
"""Raises where the caller may no longer move a stage; what it locks stays locked until the transition has ended."""


def promote(
    engine: Engine,
    registry: Registry,
    model: str,
    version: int,
    *,
    actor: str,
    cause: TransitionCause,
    reason: str = "",
    verdict_id: uuid.UUID | None = None,
    guard: Guard | None = None,
) -> Transition:
    """Move the version to Production and archive the one that was there; returns the finished transition.

    A version that is in Production already stays there: nothing is recorded, and the transition that brought it there
    is returned, so that an attempt that is made again may ask again.

    Raises ModelVersionNotFound, what `guard` raises (nothing is changed then), and TrackingUnavailable, after which
    the reconciler finds out how far it came. `guard` runs in a transaction of its own: the caller must not hold a lock
    that it waits for.
    """
    with _sole_writer(engine, registry, model, guard) as (writer, production):
        return _move(
            engine,
            writer,
            registry,
            model=model,
            version=version,
            production=production,
            actor=actor,
            cause=cause,
            reason=reason,
            verdict_id=verdict_id,
        )


def promote_by_hand(
    engine: Engine,
    registry: Registry,
    model: str,
    version: int,
    *,
    actor: str,
    reason: str = "",
    is_override: bool = False,
) -> Transition:
    """Move a version to Production because a person wants it there.

    One that the gate let pass needs nothing more. Any other needs `is_override` and a reason, which are kept with the
    verdict that was overridden. Raises VerdictStands, ParameterRejected for an override without a reason,
    ModelVersionNotFound, TrackingUnavailable.
    """
    if is_override and not reason.strip():
        raise ParameterRejected("reason", reason, "an override says why")
    registry.get_version(model, version)
    with engine.connect() as connection:
        stored = find_last_verdict(connection, model, version)
    overrides = stored is None or stored.verdict.outcome != "promote"

    def check(_connection: Connection, production: int | None) -> None:
        if overrides and not is_override and production != version:
            outcome, why = (None, "") if stored is None else (stored.verdict.outcome, stored.verdict.reason)
            raise VerdictStands(model, version, outcome, why)

    return promote(
        engine,
        registry,
        model,
        version,
        actor=actor,
        cause="override" if overrides else "hand",
        reason=reason,
        verdict_id=stored.id if overrides and stored is not None else None,
        guard=check,
    )


def rollback(engine: Engine, registry: Registry, model: str, *, actor: str, reason: str = "") -> Transition:
    """Move the version back to Production that was there before the present one and was not rolled back from.

    Raises NothingToRollBackTo, TrackingUnavailable.
    """
    with _sole_writer(engine, registry, model, None) as (writer, production):
        existing = {found.version for found in registry.load_versions(model)}
        earlier = [one for one in build_good_versions(load_history(writer, model, None)) if one in existing]
        version = next((one for one in reversed(earlier) if one != production), None)
        if version is None:
            raise NothingToRollBackTo(model)
        return _move(
            engine,
            writer,
            registry,
            model=model,
            version=version,
            production=production,
            actor=actor,
            cause="rollback",
            reason=reason,
            verdict_id=None,
        )


def build_good_versions(history: Sequence[Transition]) -> list[int]:
    """The versions that were in Production and not taken out as bad, oldest first, from transitions newest first.

    They lie on a stack: what takes Production is put on top, a rollback takes off all above its target, and a version
    that a person took out of Production is taken off too.
    """
    stack: list[int] = []
    for transition in reversed(history):
        if transition.state != "finished":
            continue
        if transition.to_stage != PRODUCTION_STAGE:
            stack = [version for version in stack if version != transition.version]
        elif transition.cause == "rollback" and transition.version in stack:
            while stack[-1] != transition.version:
                stack.pop()
        else:
            stack.append(transition.version)
    return stack


@contextmanager
def _sole_writer(
    engine: Engine, registry: Registry, model: str, guard: Guard | None
) -> Iterator[tuple[Connection, int | None]]:
    """Hold the model's lock; gives the connection whose transaction holds it, and the version in Production."""
    with engine.begin() as writer:
        lock_model(writer, model)
        with engine.begin() as connection:
            production, _ = settle(connection, registry, model)
        if guard is not None:
            guard(writer, production)
        yield writer, production


def _move(
    engine: Engine,
    writer: Connection,
    registry: Registry,
    *,
    model: str,
    version: int,
    production: int | None,
    actor: str,
    cause: TransitionCause,
    reason: str,
    verdict_id: uuid.UUID | None,
) -> Transition:
    if version == production:
        last = find_last_finished(writer, model)
        if last is None:
            raise ValueError(f"{model!r} was not settled")
        logger.info("%s version %d is in Production already", model, version)
        return last
    chosen = registry.get_version(model, version)
    # On a connection of its own: the intent stays when the writer's transaction does not.
    with engine.begin() as connection:
        intent = store_transition(
            connection,
            model=model,
            version=version,
            from_stage=chosen.stage,
            to_stage=PRODUCTION_STAGE,
            previous_version=production,
            state="intended",
            origin="platform",
            actor=actor,
            cause=cause,
            reason=reason,
            verdict_id=verdict_id,
        )
    registry.move_to_production(model, version)
    registry.set_alias(model, version)
    finished = end_transition(writer, intent.id, "finished")
    notify(writer, TRANSITIONS_CHANNEL, model)
    logger.info("%s version %d took Production from %s", model, version, production)
    return finished
