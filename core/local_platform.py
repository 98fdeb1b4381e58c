"""What a command needs and does not find running: the embedded database and the tracking server, for its own length."""

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.connections import Connections, open_connections
from core.database import create_tracking_database
from core.errors import TrackingUnavailable
from core.home import make_home
from core.keeping_errors import NothingToBackUp
from core.schema import prepare_database
from core.settings import Settings
from core.supervision import ProcessSpec, Supervisor
from core.tracking_server import build_server_command, find_tracking_store_url, is_tracking_ready

logger = logging.getLogger(__name__)

TRACKING_START_S = 180.0


@contextmanager
def open_database(settings: Settings, progress: Callable[[str], None] = logger.info) -> Iterator[str]:
    """The address of the migrated database: `DATABASE_URL`, else the embedded one, started if it does not run."""
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        prepare_database(url)
        yield url
        return
    # An image that has a database elsewhere is installed without what the embedded one needs.
    from core.embedded_database import running_database

    with running_database(settings.home, progress) as url:
        prepare_database(url)
        yield url


@contextmanager
def open_unprepared_database(
    settings: Settings, progress: Callable[[str], None] = logger.info, *, is_made: bool
) -> Iterator[tuple[str, str]]:
    """The addresses of the platform's database and of MLflow's, as they are: no schema is made or looked at.

    Without `is_made` the embedded one is not created either: raises NothingToBackUp where there is none.
    """
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        if is_made and settings.mlflow_database_url is None:
            create_tracking_database(url)
        yield url, find_tracking_store_url(settings, url)
        return
    if not is_made and not (settings.home / "postgres" / "data").is_dir():
        raise NothingToBackUp(str(settings.home))
    from core.embedded_database import running_database

    with running_database(settings.home, progress) as url:
        yield url, find_tracking_store_url(settings, url)


@contextmanager
def open_platform(settings: Settings) -> Iterator[Connections]:
    """Connections to the database and to a tracking server that answers.

    A tracking server that is not named by a setting and does not run is started here; it is stopped when the last
    command that uses it ends. Raises TrackingUnavailable where one is named and does not answer.
    """
    with open_database(settings) as url, _running_tracking(settings, url), open_connections(settings, url) as opened:
        yield opened


@contextmanager
def _running_tracking(settings: Settings, database_url: str) -> Iterator[None]:
    """Commands share one server: the first starts it, and stops it when no other uses it any more."""
    if settings.tracking_uri is not None:
        if not is_tracking_ready(settings.tracking_uri):
            raise TrackingUnavailable(
                settings.tracking_uri, "it is named by MLFLOW_TRACKING_URI and refuses connections"
            )
        yield
        return
    make_home(settings.home)
    supervisor = Supervisor([build_tracking_process(settings, database_url)])
    with (settings.home / "tracking.users").open("a") as users:
        with (settings.home / "tracking.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Waits while the command that started a server stops it.
            fcntl.flock(users, fcntl.LOCK_SH)
            is_ours = not is_tracking_ready(settings.tracking_address)
            if is_ours:
                _start(supervisor)
        try:
            yield
        finally:
            try:
                if is_ours:
                    fcntl.flock(users, fcntl.LOCK_EX)
            finally:
                supervisor.stop()


def _start(supervisor: Supervisor) -> None:
    try:
        supervisor.start(TRACKING_START_S)
    except BaseException:
        supervisor.stop()
        raise


def build_tracking_process(settings: Settings, database_url: str) -> ProcessSpec:
    """The tracking server as a supervised process."""
    command, environment = build_server_command(settings, database_url)
    return ProcessSpec(
        name="tracking",
        command=command,
        env=environment,
        is_ready=lambda: is_tracking_ready(settings.tracking_address),
        log_path=settings.logs_folder / "tracking.log",
    )
