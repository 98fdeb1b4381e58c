"""What a process that does the platform's own work is connected to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from core.database import create_database_engine
from core.settings import Settings

if TYPE_CHECKING:
    from core.registry import Registry
    from core.tracking import Tracking


@dataclass(frozen=True)
class Connections:
    """The database, MLflow's tracking and its registry. Each connects when it is first used.

    MLflow's client is loaded with the first use too: it takes seconds, and most commands ask the database alone.
    """

    settings: Settings
    database_url: str
    engine: Engine

    @cached_property
    def tracking(self) -> "Tracking":
        from core.tracking import Tracking

        return Tracking(self.settings.tracking_address)

    @cached_property
    def registry(self) -> "Registry":
        from core.registry import Registry

        return Registry(self.settings.tracking_address)


@contextmanager
def open_connections(settings: Settings, database_url: str) -> Iterator[Connections]:
    """The connections of these settings; the database's pool is closed at the end."""
    engine = create_database_engine(database_url)
    try:
        yield Connections(settings=settings, database_url=database_url, engine=engine)
    finally:
        engine.dispose()
