"""The reconciler: brings the record and the alias in line with the stages that MLflow shows.

Stage Production is what serves; the record and alias `production` follow it.

- An intent that nobody works on any more is finished if its version is in Production, else undone: MLflow moves a
  stage in one step, so the step was either done or not, and doing it late could overturn a newer decision of a person.
- A version in Production that the record does not have there was moved in MLflow by a person: it is honoured and
  recorded as external. So is an empty Production.
- Of several versions in Production the highest serves, as in MLflow itself; the others stay there until the next
  promotion archives them.
- The alias is set to the version in Production, also where a person moved the alias alone.
"""

import logging

from sqlalchemy import Connection, Engine

from core.contracts import load_models
from core.database import TRANSITIONS_CHANNEL, notify, try_lock_model
from core.errors import ModelVersionNotFound
from core.registry import PRODUCTION_STAGE, Registry, Standing
from core.transitions import (
    Transition,
    end_transition,
    find_last_finished,
    load_intended,
    load_last_finished,
    store_transition,
)

logger = logging.getLogger(__name__)

EXTERNAL_ACTOR = "mlflow"
_UNKNOWN = "unknown"
_DELETED = "Deleted"
_NOWHERE = Standing(production=None, alias=None)


def reconcile(engine: Engine, registry: Registry) -> list[Transition]:
    """Settle every declared or recorded model; returns the transitions that were finished, undone or found.

    Costs one call to MLflow and three queries where all is in line. A model that is being promoted at this moment is
    left to its promoter. Raises TrackingUnavailable.
    """
    with engine.connect() as connection:
        recorded = load_last_finished(connection)
        intended = {transition.model for transition in load_intended(connection)}
        models = {*load_models(connection), *recorded, *intended}
    standings = registry.load_standings()
    changed: list[Transition] = []
    for model in sorted(models):
        standing = standings.get(model, _NOWHERE)
        if model in intended or not standing.is_aligned or _find_recorded(recorded.get(model)) != standing.production:
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
        ended = end_transition(connection, intent.id, "finished" if intent.version == standing.production else "undone")
        logger.warning("promotion of %s version %d was left open: %s", model, ended.version, ended.state)
        changed.append(ended)
    recorded = _find_recorded(find_last_finished(connection, model))
    if recorded != standing.production:
        changed.append(_record_external(connection, registry, model, recorded, standing.production))
    if not standing.is_aligned:
        logger.warning("alias of %s follows its stage: %s", model, standing.production)
        registry.set_alias(model, standing.production)
    if changed:
        notify(connection, TRANSITIONS_CHANNEL, model)
    return standing.production, changed


def _find_recorded(last: Transition | None) -> int | None:
    return last.version if last is not None and last.to_stage == PRODUCTION_STAGE else None


def _record_external(
    connection: Connection, registry: Registry, model: str, recorded: int | None, production: int | None
) -> Transition:
    logger.warning("Production of %s was moved in MLflow: %s to %s", model, recorded, production)
    if production is not None:
        version, from_stage, to_stage = production, _UNKNOWN, PRODUCTION_STAGE
    elif recorded is not None:
        version, from_stage, to_stage = recorded, PRODUCTION_STAGE, _find_stage(registry, model, recorded)
    else:
        raise ValueError("nothing was moved")
    return store_transition(
        connection,
        model=model,
        version=version,
        from_stage=from_stage,
        to_stage=to_stage,
        previous_version=recorded,
        state="finished",
        origin="external",
        actor=EXTERNAL_ACTOR,
        cause="external",
        reason="moved in MLflow",
    )


def _find_stage(registry: Registry, model: str, version: int) -> str:
    try:
        return registry.get_version(model, version).stage
    except ModelVersionNotFound:
        return _DELETED
