"""What users have, read from the observations for each answer: what came in since a version was trained counts at once.

The one read of observations that serving does, bounded and through `core`. While the database is away it answers with
no history, and the answers that are made of it say so.
"""

import logging
from dataclasses import dataclass

from sqlalchemy.exc import OperationalError, TimeoutError

from core.contract import Contract
from core.database import create_database_engine
from core.interactions import MAX_HISTORY, load_history
from serving.outages import Outage
from web.health import HealthCheck

logger = logging.getLogger(__name__)

_CONNECTIONS = 4


@dataclass(frozen=True)
class History:
    """What a user has `(items,)`, oldest first; `is_whole` says that nothing of it is missing."""

    items: list[int | str]
    strengths: list[float]
    is_whole: bool


class Histories:
    """Reads histories; safe to call from several threads."""

    def __init__(self, database_url: str) -> None:
        self._engine = create_database_engine(database_url, pool_size=_CONNECTIONS)
        self._outage = Outage("the database", "Rankings are of popular items, whatever the user has")

    def load(self, contract: Contract, user: int | str) -> History:
        """The user's history, nothing for an unknown one; an unwhole empty one while the database is away."""
        try:
            with self._engine.connect() as connection:
                found = load_history(connection, contract, user)
        except (OperationalError, TimeoutError) as error:
            self._outage.begin(error)
            return History([], [], is_whole=False)
        self._outage.end()
        return History([item for item, _ in found], [value for _, value in found], len(found) < MAX_HISTORY)

    def build_checks(self) -> list[HealthCheck]:
        """Degraded while histories cannot be read."""
        reason = self._outage.reason
        return [HealthCheck("histories", "degraded", f"the database is away: {reason}")] if reason else []

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
