"""A real PostgreSQL, real ONNX models in real model directories, and the application on a real port."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text

from core.contracts import write_contracts
from core.database import create_database_engine, migrate_database
from core.embedded_database import EmbeddedDatabase
from tests.serving.folder_registry import FolderRegistry
from tests.serving.onnx_models import build_contract
from tests.serving.running import Served, serving
from tests.serving.tables import build_table, write_table_version

_numbers = itertools.count()


@pytest.fixture(scope="session")
def database() -> Iterator[EmbeddedDatabase]:
    """A PostgreSQL that tests may stop and start again."""
    # In memory where there is such a folder: stopping the server waits until all of it is on the disk.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  the folder below has a name of its own
    with tempfile.TemporaryDirectory(prefix="millrace-serving-", dir=memory) as folder:
        # As root, PostgreSQL runs as an ordinary user; pytest's own folders would not let that user through.
        Path(folder).chmod(0o711)
        server = EmbeddedDatabase(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def template(database: EmbeddedDatabase) -> str:
    """Name of a migrated database that others are copied from."""
    name = "serving_template"
    url = make_url(database.url)
    _create_database(url, f"CREATE DATABASE {name}")
    migrate_database(url.set(database=name).render_as_string(hide_password=False))
    return name


@pytest.fixture
def own_database_url(database: EmbeddedDatabase, template: str) -> Iterator[str]:
    """An empty database of its own, migrated."""
    yield copy_database(database, template)
    database.ensure_running()


def copy_database(database: EmbeddedDatabase, template: str) -> str:
    """The address of a new copy of the migrated database."""
    name = f"serving_{next(_numbers)}"
    url = make_url(database.url)
    _create_database(url, f"CREATE DATABASE {name} TEMPLATE {template}")
    return url.set(database=name).render_as_string(hide_password=False)


def _create_database(url: URL, statement: str) -> None:
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(statement))
    admin.dispose()


@pytest.fixture
def own_engine(own_database_url: str) -> Iterator[Engine]:
    own_engine = create_database_engine(own_database_url)
    yield own_engine
    own_engine.dispose()


@pytest.fixture
def folder_registry(tmp_path: Path) -> FolderRegistry:
    folder = tmp_path / "registry"
    folder.mkdir()
    return FolderRegistry(folder)


@pytest.fixture
def served(tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry) -> Iterator[Served]:
    """The application on a port, model `prices` declared, version 1 (the mean of the window) in Production."""
    with _serving_first_version(tmp_path, own_database_url, folder_registry) as running:
        yield running


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory, database: EmbeddedDatabase, template: str) -> Iterator[Served]:
    """The same, shared by the tests that change nothing."""
    folder = tmp_path_factory.mktemp("steady")
    (folder / "registry").mkdir()
    registry = FolderRegistry(folder / "registry")
    with _serving_first_version(folder, copy_database(database, template), registry) as running:
        yield running


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory, database: EmbeddedDatabase, template: str) -> Iterator[Served]:
    """The application with a series, `prices`, and a table, `areas`; for tests that change nothing."""
    folder = tmp_path_factory.mktemp("two_models")
    (folder / "registry").mkdir()
    registry = FolderRegistry(folder / "registry")
    registry.add("prices", 1, answers="mean")
    registry.add("prices", 2, answers="double")
    write_table_version(registry.folder / "areas" / "1")
    registry.set_production("prices", 1)
    registry.set_production("areas", 1)
    database_url = copy_database(database, template)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        write_contracts(connection, [build_contract("prices"), build_table()])
    engine.dispose()
    with serving(folder, database_url, registry, models=()) as running:
        running.wait_for_version("prices", 1)
        running.wait_for_version("areas", 1)
        yield running


@contextmanager
def _serving_first_version(folder: Path, own_database_url: str, folder_registry: FolderRegistry) -> Iterator[Served]:
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    with serving(folder, own_database_url, folder_registry) as running:
        running.wait_for_version("prices", 1)
        yield running
