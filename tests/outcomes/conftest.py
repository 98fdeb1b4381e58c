"""One database for all tests of outcomes; every test has a model of its own."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from core.database import create_database_engine


@pytest.fixture(scope="session")
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def own_engine(migrated_database_url: str) -> Iterator[Engine]:
    """An engine on a database of the test's own."""
    own_engine = create_database_engine(migrated_database_url)
    yield own_engine
    own_engine.dispose()
