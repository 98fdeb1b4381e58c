"""The real parts that tests share: the embedded PostgreSQL and MLflow's tracking server."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import Engine, make_url

from core.connections import Connections, open_connections
from core.database import build_libpq_url, create_database_engine, migrate_database
from core.embedded_database import running_database
from core.registry import Registry
from core.settings import Settings, load_settings
from core.tracking import Tracking
from core.tracking_server import build_server_command, wait_for_tracking

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
SERVER_START_S = 300.0

_SETTINGS_PREFIXES = ("MILLRACE_", "MLFLOW_", "DATABASE_URL", "AUTO_TRAIN_ON_STARTUP")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """Tests see the defaults, whatever the caller's environment has set."""
    for name in list(os.environ):
        if name.startswith(_SETTINGS_PREFIXES):
            del os.environ[name]


@pytest.fixture(autouse=True)
def _no_address_from_the_test_before(_no_settings_from_outside: None) -> Iterator[None]:
    """MLflow notes the address that it is set to in the environment; no later test may meet it there."""
    yield
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)


def make_open_folder() -> Path:
    """A new folder that the database's own user reaches too, where the tests run as root; pytest's are closed."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-tests-"))
    folder.chmod(0o755)
    return folder


def find_free_port() -> int:
    """A port of the loopback address that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for one test that the database's own user reaches too."""
    folder = make_open_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# --- PostgreSQL --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def database_home() -> Iterator[Path]:
    """A platform home for the session, which the database's own user reaches too."""
    folder = make_open_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _cluster_url(database_home: Path) -> Iterator[str]:
    with running_database(database_home) as url:
        yield url


@pytest.fixture(scope="session")
def database_url(_cluster_url: str) -> str:
    """A migrated database that all tests of the session share."""
    migrate_database(_cluster_url)
    return _cluster_url


@pytest.fixture
def fresh_database_url(_cluster_url: str) -> Iterator[str]:
    """An empty database of the test's own."""
    name = f"fresh_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(build_libpq_url(_cluster_url), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            yield make_url(_cluster_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture
def migrated_database_url(fresh_database_url: str) -> str:
    """A database of the test's own with the platform's schema."""
    migrate_database(fresh_database_url)
    return fresh_database_url


@pytest.fixture
def engine(migrated_database_url: str) -> Iterator[Engine]:
    """An engine on a database of the test's own with the platform's schema."""
    engine = create_database_engine(migrated_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def shared_engine(database_url: str) -> Iterator[Engine]:
    """An engine on the shared database."""
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


# --- MLflow ------------------------------------------------------------------------------------------------------


@contextmanager
def running_tracking(settings: Settings, database_url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A tracking server of these settings, for the length of the block."""
    command, server_environment = build_server_command(settings, database_url)
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(
            command, env={**server_environment, **environment}, start_new_session=True, stdout=output, stderr=output
        )
    try:
        wait_for_tracking(settings.tracking_address, SERVER_START_S)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture(scope="session")
def tracking_settings(database_home: Path) -> Settings:
    """Settings of the shared tracking server: its port, its artifacts in a local folder, the session's home."""
    port = find_free_port()
    return load_settings(
        home=database_home,
        artifacts=str(database_home / "mlruns"),
        tracking_port=port,
        tracking_uri=f"http://127.0.0.1:{port}",
    )


@pytest.fixture(scope="session")
def tracking_server(database_url: str, tracking_settings: Settings) -> Iterator[str]:
    """The address of a tracking server on the embedded PostgreSQL, with artifacts in a local folder."""
    with running_tracking(tracking_settings, database_url):
        yield tracking_settings.tracking_address


@pytest.fixture(scope="session")
def registry(tracking_server: str) -> Registry:
    """The registry of the shared tracking server."""
    return Registry(tracking_server)


@pytest.fixture(scope="session")
def tracking(tracking_server: str) -> Tracking:
    """The shared tracking server."""
    return Tracking(tracking_server)


@pytest.fixture
def connections(migrated_database_url: str, tracking_server: str, tracking_settings: Settings) -> Iterator[Connections]:
    """Connections to a database of the test's own and to the shared tracking server."""
    settings = tracking_settings.model_copy(update={"tracking_uri": tracking_server})
    with open_connections(settings, migrated_database_url) as opened:
        yield opened


# --- names and data ----------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> str:
    """The name of a model of the test's own."""
    return f"model_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that needs it is skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def _logged_files(tracking: Tracking, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    run_id = tracking.start_run("versions", None, {})
    folder = tmp_path_factory.mktemp("version")
    (folder / "contract.json").write_text('{"model": "prices"}')
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 40)
    tracking.log_artifact(run_id, folder / "contract.json", "version")
    tracking.log_artifact(run_id, folder / "weights.bin", "version/data")
    tracking.finish_run(run_id, "FINISHED")
    return run_id, f"runs:/{run_id}/version"


@pytest.fixture
def add_version(registry: Registry, model: str, _logged_files: tuple[str, str]) -> Callable[[], int]:
    """Registers the next version of the test's model, of a few small files, and returns its number."""

    def add() -> int:
        run_id, source = _logged_files
        return registry.register(model, run_id, source, {}).version

    return add
