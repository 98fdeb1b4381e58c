"""Promotion and rollback: which version takes Production, by a verdict, by hand, or back to an earlier one.

`core.stage_moves` makes the move.
"""

import logging
import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from core.errors import NothingToRollBackTo, ParameterRejected, VerdictStands
from core.registry import PRODUCTION_STAGE, Registry
from core.stage_moves import Guard, writing_stages
from core.transitions import Transition, TransitionCause, find_last_move, load_history
from core.verdicts import StoredVerdict, find_last_verdict, load_passed_versions

logger = logging.getLogger(__name__)


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
    with writing_stages(engine, registry, model, guard) as writer:
        if version == writer.production:
            last = find_last_move(writer.connection, model)
            if last is None:
                raise ValueError(f"{model!r} was not settled")
            logger.info("%s version %d is in Production already", model, version)
            return last
        return writer.move(version, PRODUCTION_STAGE, actor=actor, cause=cause, reason=reason, verdict_id=verdict_id)


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

    One that the gate let pass needs nothing more. Any other, one that was rolled back from since and one that needs an
    approval need `is_override` and a reason, which are kept with the gate's last verdict. Raises VerdictStands,
    ParameterRejected for an override without a reason, ModelVersionNotFound, TrackingUnavailable.
    """
    if is_override and not reason.strip():
        raise ParameterRejected("reason", reason, "an override says why")
    registry.get_version(model, version)
    with engine.connect() as connection:
        stored = find_last_verdict(connection, model, version)
        objection = _find_objection(connection, model, version, stored)

    def check(_connection: Connection, production: int | None) -> None:
        if objection is not None and not is_override and production != version:
            raise VerdictStands(model, version, objection)

    return promote(
        engine,
        registry,
        model,
        version,
        actor=actor,
        cause="hand" if objection is None else "override",
        reason=reason,
        verdict_id=None if stored is None else stored.id,
        guard=check,
    )


def _find_objection(connection: Connection, model: str, version: int, stored: StoredVerdict | None) -> str | None:
    """What speaks against promoting the version without an override; None where nothing does."""
    if stored is None:
        return "the gate has no verdict on it"
    verdict = stored.verdict
    if verdict.outcome != "promote":
        return f"the gate's verdict on it is {verdict.outcome!r}: {verdict.reason}"
    if version in load_passed_versions(connection, model):
        return None
    rolled_back = next(
        (
            one
            for one in load_history(connection, model, None)
            if one.cause == "rollback" and one.state == "finished" and one.previous_version == version
        ),
        None,
    )
    if rolled_back is not None:
        said = f": {rolled_back.reason}" if rolled_back.reason else ""
        return f"it was rolled back from by {rolled_back.actor}{said}"
    return f"it needs the approval of role {verdict.approver!r} (`millrace approve {model} {version}`)"


def rollback(
    engine: Engine,
    registry: Registry,
    model: str,
    *,
    actor: str,
    reason: str = "",
    finding_id: uuid.UUID | None = None,
    guard: Guard | None = None,
) -> Transition:
    """Move the last good version before the present one back to Production; see `build_good_versions`.

    Raises NothingToRollBackTo, what `guard` raises (nothing is changed then), TrackingUnavailable.
    """
    with writing_stages(engine, registry, model, guard) as writer:
        existing = {found.version for found in registry.load_versions(model)}
        version = find_rollback(load_history(writer.connection, model, None), writer.production, existing)
        if version is None:
            raise NothingToRollBackTo(model)
        return writer.move(
            version, PRODUCTION_STAGE, actor=actor, cause="rollback", reason=reason, finding_id=finding_id
        )


def find_rollback(history: Sequence[Transition], production: int | None, existing: set[int]) -> int | None:
    """The version that a rollback from `production` goes to, from transitions newest first; None if there is none."""
    good = [version for version in build_good_versions(history) if version in existing]
    return next((version for version in reversed(good) if version != production), None)


def build_good_versions(history: Sequence[Transition]) -> list[int]:
    """The versions that were in Production and not taken out as bad, oldest first, from transitions newest first.

    They lie on a stack: what takes Production is put on top. A rollback takes off all above its target, and what it
    took off wherever else it lies, so that rolling back again goes further back and never to and fro. A version that a
    person took out of Production is taken off too. What was taken off is good again when it takes Production again.
    """
    stack: list[int] = []
    for transition in reversed(history):
        if transition.state != "finished":
            continue
        if transition.to_stage != PRODUCTION_STAGE:
            stack = [version for version in stack if version != transition.version]
        elif transition.cause == "rollback" and transition.version in stack:
            last = len(stack) - stack[::-1].index(transition.version)
            bad = set(stack[last:])
            stack = [version for version in stack[:last] if version not in bad]
        else:
            stack.append(transition.version)
    return stack
