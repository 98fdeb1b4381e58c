"""What a process that does the platform's own work is connected to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine

from core.database import create_database_engine
from core.registry import Registry
from core.settings import Settings
from core.tracking import Tracking


@dataclass(frozen=True)
class Connections:
    """The database, MLflow's tracking and its registry. Each connects when it is first used."""

    settings: Settings
    database_url: str
    engine: Engine
    tracking: Tracking
    registry: Registry


@contextmanager
def open_connections(settings: Settings, database_url: str) -> Iterator[Connections]:
    """The connections of these settings; the database's pool is closed at the end."""
    engine = create_database_engine(database_url)
    try:
        yield Connections(
            settings=settings,
            database_url=database_url,
            engine=engine,
            tracking=Tracking(settings.tracking_address),
            registry=Registry(settings.tracking_address),
        )
    finally:
        engine.dispose()
