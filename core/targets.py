"""What serves: one row a model, `Production` (default), `latest` or one version."""

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from core.database import TRANSITIONS_CHANNEL, notify
from core.tables import serving_targets, workloads

PRODUCTION = "Production"
LATEST = "latest"
"""The latest version that passed the gate."""


def load_targets(connection: Connection) -> dict[str, str]:
    """The serving target of every declared model."""
    target = func.coalesce(serving_targets.c.target, PRODUCTION)
    statement = select(workloads.c.model, target).join_from(
        workloads, serving_targets, serving_targets.c.model == workloads.c.model, isouter=True
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def set_target(connection: Connection, model: str, target: str, actor: str) -> None:
    """Serve `target` of the model from now on; whether it exists is the caller's to check. Serving is notified."""
    values = {"target": target, "set_by": actor, "set_at": func.now()}
    statement = insert(serving_targets).values(model=model, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["model"], set_=values))
    notify(connection, TRANSITIONS_CHANNEL, model)
