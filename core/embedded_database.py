"""The embedded PostgreSQL: a real server under the home folder that commands share and the last one stops."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import URL

from core.embedded_cluster import PORT, START_TIMEOUT_S, SUPERUSER, Answer, EmbeddedCluster
from core.errors import EmbeddedDatabaseFailed
from core.home import make_home

logger = logging.getLogger(__name__)

PLATFORM_DATABASE = "millrace"
TRACKING_DATABASE = "mlflow"
MAINTENANCE_DATABASE = "postgres"
UNRESPONSIVE_AFTER_S = 30.0
PROGRESS_EVERY_S = 5.0
POLL_S = 0.1


class EmbeddedDatabase:
    """The server under `<home>/postgres`, whoever has started it.

    Starting and stopping happen under an exclusive lock on `start.lock`, so that any number of processes may call
    anything at any time. `progress` receives a sentence now and then while something takes long, such as recovery
    after a crash.
    """

    def __init__(self, home: Path, progress: Callable[[str], None] = logger.info) -> None:
        self._cluster = EmbeddedCluster(home, progress)
        self._progress = progress
        self.start_lock_path = self._cluster.folder / "start.lock"
        self.users_lock_path = self._cluster.folder / "users.lock"

    @property
    def socket_folder(self) -> Path:
        return self._cluster.socket_folder

    @property
    def log_path(self) -> Path:
        return self._cluster.log_path

    @property
    def url(self) -> str:
        """SQLAlchemy address of the platform's database. Raises EmbeddedDatabaseFailed before the first start."""
        return self._build_url("postgresql+psycopg", PLATFORM_DATABASE)

    @property
    def tracking_url(self) -> str:
        """Address of MLflow's database, for psycopg2: with psycopg 3 MLflow's transitions fail."""
        return self._build_url("postgresql+psycopg2", TRACKING_DATABASE)

    def find_pid(self) -> int | None:
        """Process number of the running server, None while none runs."""
        return self._cluster.find_postmaster()

    def is_healthy(self) -> bool:
        """Whether a server runs on our data folder and takes connections."""
        return self._cluster.find_postmaster() is not None and self._cluster.ask() is Answer.ACCEPTS

    def start(self) -> None:
        """Have a server that takes connections, with both databases: adopt the running one, else create and start.

        Raises EmbeddedDatabaseFailed.
        """
        with self.hold_start_lock():
            self.start_under_lock()

    def ensure_running(self) -> bool:
        """Start the server again if it is not healthy; whether that was necessary. For a loop that watches it.

        Raises EmbeddedDatabaseFailed.
        """
        if self.is_healthy():
            return False
        logger.warning("The embedded PostgreSQL does not answer; it is started again, its log is %s", self.log_path)
        self.start()
        return True

    def stop(self) -> None:
        """Stop the server, whoever uses it; nothing happens where none runs."""
        with self.hold_start_lock():
            self.stop_under_lock()

    def start_under_lock(self) -> None:
        """As `start`, for a caller that holds the start lock."""
        self._cluster.prepare()
        self._await_server()
        self._make_databases()

    def stop_under_lock(self) -> None:
        """As `stop`, for a caller that holds the start lock."""
        self._cluster.halt()

    @contextmanager
    def hold_start_lock(self) -> Iterator[None]:
        """Hold the right to start and stop the server; waits for the process that has it."""
        with open_lock(self.start_lock_path) as lock:
            waited_s = 0.0
            while not take_lock(lock, fcntl.LOCK_EX):
                time.sleep(POLL_S)
                waited_s += POLL_S
                if waited_s > PROGRESS_EVERY_S:
                    waited_s = 0.0
                    self._progress("waiting for another process that starts or stops the embedded PostgreSQL")
            yield

    def _await_server(self) -> None:
        begun_at_s = told_at_s = heard_at_s = time.monotonic()
        while True:
            if self._cluster.find_postmaster() is None:
                self._cluster.launch()
            answer = self._cluster.ask()
            now_s = time.monotonic()
            if answer is Answer.ACCEPTS:
                return
            if answer is Answer.BUSY:
                heard_at_s = now_s
            elif now_s - heard_at_s > UNRESPONSIVE_AFTER_S:
                logger.warning("The embedded PostgreSQL runs but does not answer; it is restarted")
                self._cluster.halt()
                heard_at_s = time.monotonic()
            if now_s - begun_at_s > START_TIMEOUT_S:
                reason = f"it is still busy after {START_TIMEOUT_S:.0f} s; it goes on, try again later"
                raise EmbeddedDatabaseFailed("start", reason, str(self.log_path))
            if now_s - told_at_s > PROGRESS_EVERY_S:
                told_at_s = now_s
                self._progress(f"waiting for the embedded PostgreSQL to answer ({now_s - begun_at_s:.0f} s)")
            time.sleep(POLL_S)

    def _make_databases(self) -> None:
        """Create what is missing of the two databases; proves at the same time that the password opens this server."""
        address = self._build_url("postgresql", MAINTENANCE_DATABASE)
        try:
            with psycopg.connect(address, autocommit=True, connect_timeout=30) as connection:
                existing = {str(name) for (name,) in connection.execute("SELECT datname FROM pg_database")}
                for name in (PLATFORM_DATABASE, TRACKING_DATABASE):
                    if name not in existing:
                        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.OperationalError as error:
            raise EmbeddedDatabaseFailed("be opened", " ".join(str(error).split()), str(self.log_path)) from error

    def _build_url(self, driver: str, database: str) -> str:
        query = {"host": str(self.socket_folder), "port": str(PORT)}
        url = URL.create(driver, SUPERUSER, self._cluster.load_password(), database=database, query=query)
        return url.render_as_string(hide_password=False)


@contextmanager
def running_database(home: Path, progress: Callable[[str], None] = logger.info) -> Iterator[str]:
    """Use the embedded PostgreSQL of `home`: yields its SQLAlchemy address, started if nobody has yet.

    Users at the same time, also in other processes, share one server and the last to leave stops it. A user that is
    killed leaves it running for the next. Raises EmbeddedDatabaseFailed.
    """
    database = EmbeddedDatabase(home, progress)
    with open_lock(database.users_lock_path) as users:
        try:
            with database.hold_start_lock():
                # Shared, and always free here: only a holder of the start lock asks for more.
                take_lock(users, fcntl.LOCK_SH)
                database.start_under_lock()
            yield database.url
        finally:
            with database.hold_start_lock():
                if take_lock(users, fcntl.LOCK_EX):
                    database.stop_under_lock()
                # Given back before the start lock is, for the next user must not find it taken.
                fcntl.flock(users, fcntl.LOCK_UN)


@contextmanager
def open_lock(path: Path) -> Iterator[int]:
    """A descriptor for locking `path`, which is made when missing; closing it, and any death, gives the lock back."""
    try:
        make_home(path.parent)
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = f"{path} cannot be opened ({error.strerror}); set MILLRACE_HOME to a folder that this user may write"
        raise EmbeddedDatabaseFailed("start", reason, "not begun") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, kind: int) -> bool:
    """Take the lock if it is free at this moment; whether it was."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
