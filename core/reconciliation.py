"""The reconciler: brings the record and the alias in line with the stages that MLflow shows.

Stage Production is what serves; the record and alias `production` follow it.

- An intent that nobody works on any more is finished if its version is in Production, else undone: MLflow moves a
  stage in one step, so the step was either done or not, and doing it late could overturn a newer decision of a person.
- A version in Production that the record does not have there was moved in MLflow by a person: it is honoured and
  recorded as external, with the person's name where they came through the door. So is an empty Production.
- Of several versions in Production the highest serves, as in MLflow itself; the others stay there until the next
  promotion archives them.
- The alias is set to the version in Production, also where a person moved the alias alone.
- A version that waits in Staging for an approval and was moved elsewhere in MLflow waits no longer, which is recorded
  as external.
"""

import logging
from datetime import datetime

from sqlalchemy import Connection, Engine

from core.audit import find_mover
from core.contracts import load_models
from core.database import TRANSITIONS_CHANNEL, notify, try_lock_model
from core.errors import ModelVersionNotFound
from core.registry import PRODUCTION_STAGE, STAGING_STAGE, Registry, Standing
from core.transitions import (
    Transition,
    end_transition,
    find_last_move,
    load_intended,
    load_last_moves,
    load_waiting,
    store_transition,
)

logger = logging.getLogger(__name__)

EXTERNAL_ACTOR = "mlflow"
_UNKNOWN = "unknown"
_DELETED = "Deleted"
_NOWHERE = Standing(production=None, alias=None)


def reconcile(engine: Engine, registry: Registry) -> list[Transition]:
    """Settle every declared or recorded model; returns the transitions that were finished, undone or found.

    Costs one call to MLflow and four queries where all is in line. A model that is being promoted at this moment is
    left to its promoter. Raises TrackingUnavailable.
    """
    with engine.connect() as connection:
        recorded = load_last_moves(connection)
        intended = {transition.model for transition in load_intended(connection)}
        waiting = {transition.model: transition.version for transition in load_waiting(connection)}
        models = {*load_models(connection), *recorded, *intended, *waiting}
    standings = registry.load_standings()
    changed: list[Transition] = []
    for model in sorted(models):
        standing = standings.get(model, _NOWHERE)
        is_in_line = (
            model not in intended
            and standing.is_aligned
            and _find_recorded(recorded.get(model)) == standing.production
            and waiting.get(model, standing.staging) == standing.staging
        )
        if not is_in_line:
            with engine.begin() as connection:
                if try_lock_model(connection, model):
                    changed.extend(settle(connection, registry, model)[1])
    return changed


def settle(connection: Connection, registry: Registry, model: str) -> tuple[int | None, list[Transition]]:
    """Bring one model in line; returns its version in Production and the transitions that were ended or found.

    The caller holds the model's lock, so every open intent is one whose promoter is gone.
    """
    standing = registry.load_standing(model)
    changed: list[Transition] = []
    for intent in load_intended(connection, model):
        is_done = _is_done(registry, intent, standing)
        ended = end_transition(connection, intent.id, "finished" if is_done else "undone")
        logger.warning("a move of %s version %d was left open: %s", model, ended.version, ended.state)
        changed.append(ended)
    last = find_last_move(connection, model)
    if _find_recorded(last) != standing.production:
        changed.append(_record_external(connection, registry, model, last, standing.production))
    changed.extend(_record_withdrawn(connection, registry, model, standing.production))
    if not standing.is_aligned:
        logger.warning("alias of %s follows its stage: %s", model, standing.production)
        registry.set_alias(model, standing.production)
    if changed:
        notify(connection, TRANSITIONS_CHANNEL, model)
    return standing.production, changed


def _find_recorded(last: Transition | None) -> int | None:
    return last.version if last is not None and last.to_stage == PRODUCTION_STAGE else None


def _is_done(registry: Registry, intent: Transition, standing: Standing) -> bool:
    if intent.to_stage == PRODUCTION_STAGE:
        return intent.version == standing.production
    return _find_stage(registry, intent.model, intent.version) == intent.to_stage


def _record_withdrawn(
    connection: Connection, registry: Registry, model: str, production: int | None
) -> list[Transition]:
    """Record the waiting versions that a person moved out of Staging."""
    found = []
    for waiting in load_waiting(connection, model):
        stage = _find_stage(registry, model, waiting.version)
        if stage != STAGING_STAGE:
            logger.warning("%s version %d was moved in MLflow: Staging to %s", model, waiting.version, stage)
            found.append(
                _store_external(
                    connection, model, waiting.version, STAGING_STAGE, stage, production, waiting.finished_at
                )
            )
    return found


def _record_external(
    connection: Connection, registry: Registry, model: str, last: Transition | None, production: int | None
) -> Transition:
    recorded = _find_recorded(last)
    logger.warning("Production of %s was moved in MLflow: %s to %s", model, recorded, production)
    if production is not None:
        version, from_stage, to_stage = production, _UNKNOWN, PRODUCTION_STAGE
    elif recorded is not None:
        version, from_stage, to_stage = recorded, PRODUCTION_STAGE, _find_stage(registry, model, recorded)
    else:
        raise ValueError("nothing was moved")
    since = None if last is None else last.finished_at
    return _store_external(connection, model, version, from_stage, to_stage, recorded, since)


def _store_external(
    connection: Connection,
    model: str,
    version: int,
    from_stage: str,
    to_stage: str,
    previous: int | None,
    since: datetime | None,
) -> Transition:
    """The transition; its actor is who moved it through the door since that time, where somebody did."""
    return store_transition(
        connection,
        model=model,
        version=version,
        from_stage=from_stage,
        to_stage=to_stage,
        previous_version=previous,
        state="finished",
        origin="external",
        actor=find_mover(connection, model, version, to_stage, since) or EXTERNAL_ACTOR,
        cause="external",
        reason="moved in MLflow",
    )


def _find_stage(registry: Registry, model: str, version: int) -> str:
    try:
        return registry.get_version(model, version).stage
    except ModelVersionNotFound:
        return _DELETED
