"""What serves: one row a model, `Production` (default), `latest` or one version; and what was set before."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from core.database import TRANSITIONS_CHANNEL, notify
from core.tables.data import workloads
from core.tables.versions import serving_targets, target_changes

PRODUCTION = "Production"
LATEST = "latest"
"""The latest version that passed the gate, was approved where that is asked, and was not rolled back from since."""


@dataclass(frozen=True)
class TargetChange:
    """A target that somebody set, at that time (UTC); the order of a model's changes is that of their numbers."""

    id: int
    model: str
    target: str
    set_by: str
    set_at: datetime


def load_targets(connection: Connection) -> dict[str, str]:
    """The serving target of every declared model."""
    target = func.coalesce(serving_targets.c.target, PRODUCTION)
    statement = select(workloads.c.model, target).join_from(
        workloads, serving_targets, serving_targets.c.model == workloads.c.model, isouter=True
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def set_target(connection: Connection, model: str, target: str, actor: str) -> None:
    """Serve `target` of the model from now on; whether it exists is the caller's to check. Serving is notified."""
    values = {"target": target, "set_by": actor, "set_at": func.clock_timestamp()}
    # The row's lock puts changes at once in one order, in both tables.
    statement = insert(serving_targets).values(model=model, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["model"], set_=values))
    connection.execute(insert(target_changes).values(model=model, **values))
    notify(connection, TRANSITIONS_CHANNEL, model)


def load_target_changes(connection: Connection, model: str, limit: int = 100) -> list[TargetChange]:
    """The targets that were set for the model, newest first."""
    columns = [target_changes.c[name] for name in TargetChange.__dataclass_fields__]
    statement = (
        select(*columns).where(target_changes.c.model == model).order_by(target_changes.c.id.desc()).limit(limit)
    )
    return [TargetChange(**row._mapping) for row in connection.execute(statement)]
