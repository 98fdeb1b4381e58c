"""A database for ingestion, names of its own for every test, and the real data where it is at hand."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from core.database import create_database_engine, migrate_database

_BESIDE_THE_REPOSITORY = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def engine(database_url: str) -> Iterator[Engine]:
    migrate_database(database_url)
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def model() -> str:
    """A model's name that no other test uses, so that tests share one database."""
    return f"m{uuid4().hex[:12]}"


@pytest.fixture
def shared_data() -> Path:
    folder = Path(os.environ.get("MILLRACE_SHARED_DATA", _BESIDE_THE_REPOSITORY))
    if not folder.is_dir():
        pytest.skip(f"the real data is not at hand: there is no folder {folder}; set MILLRACE_SHARED_DATA")
    return folder
