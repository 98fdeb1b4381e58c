"""What one user of a ranking has, as the observations say now."""

from sqlalchemy import Connection, column, select, table, text
from sqlalchemy.exc import ProgrammingError

from core.contract import Contract
from core.names import name_observations

MAX_HISTORY = 20_000
"""Interactions of one user that are read at most; nobody comes near it by hand."""
_LONGEST_MS = 2_000


def load_history(connection: Connection, contract: Contract, user: int | str) -> list[tuple[int | str, float]]:
    """Item and strength of the user's interactions, oldest first where they have times, the latest 20,000 at most.

    Nothing where no rows were ever taken in. Raises OperationalError where the database is away or takes longer than
    two seconds.
    """
    item, strength = contract.features
    entity = contract.key.entity or ""
    time = contract.ranking.time if contract.ranking else None
    observations = table(name_observations(contract.model), *(column(name) for name in (item, strength, entity)))
    query = select(observations.c[item], observations.c[strength]).where(observations.c[entity] == user)
    if time is not None:
        query = query.order_by(column(time).desc().nulls_last())
    query = query.order_by(observations.c[strength].desc()).limit(MAX_HISTORY)
    connection.execute(text(f"SET LOCAL statement_timeout = {_LONGEST_MS}"))
    try:
        rows = connection.execute(query).all()
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", "") == "42P01":
            # Undefined table: nothing was ever taken in.
            return []
        raise
    return [(row[0], float(row[1])) for row in reversed(rows)]
