"""The control plane on a real port, with a real database and, where a test asks for it, a real tracking server."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from core.database import build_libpq_url, migrate_database
from tests.conftest import find_free_port
from tests.control.running import Controlled, controlling, declare_prices

_STEADY_DATABASE = "control_steady"


@pytest.fixture
def platform_url(fresh_database_url: str) -> str:
    """The address of a database of the test's own with the platform's schema."""
    migrate_database(fresh_database_url)
    return fresh_database_url


@pytest.fixture
def nowhere() -> str:
    """An address at which nothing listens."""
    return f"http://127.0.0.1:{find_free_port()}"


@pytest.fixture
def controlled(tmp_path: Path, platform_url: str, nowhere: str) -> Iterator[Controlled]:
    """The control plane with model `prices` declared; no tracking server answers."""
    with controlling(tmp_path, platform_url, nowhere, max_upload_bytes=100_000) as running:
        declare_prices(running.connections)
        yield running


@pytest.fixture(scope="session")
def steady(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    """The same, shared by the tests whose every request is refused."""
    with psycopg.connect(build_libpq_url(database_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {_STEADY_DATABASE}")
    url = make_url(database_url).set(database=_STEADY_DATABASE).render_as_string(hide_password=False)
    migrate_database(url)
    nowhere = f"http://127.0.0.1:{find_free_port()}"
    with controlling(tmp_path_factory.mktemp("steady"), url, nowhere, max_upload_bytes=100_000) as running:
        declare_prices(running.connections)
        yield running


@pytest.fixture
def tracked(tmp_path: Path, platform_url: str, tracking_server: str) -> Iterator[Controlled]:
    """The control plane with model `prices` declared, on the tracking server."""
    with controlling(tmp_path, platform_url, tracking_server) as running:
        declare_prices(running.connections)
        yield running


@pytest.fixture
def database_folder() -> Iterator[Path]:
    """A folder for a database of the test's own; pytest's are closed to the user that it runs as under root."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-control-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
