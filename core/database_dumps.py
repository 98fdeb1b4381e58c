"""Whole databases as dumps: two of them at one moment, and back again in one transaction each.

PostgreSQL's own pg_dump knows every table, index, trigger and sequence that there is, so nothing here names them.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import psycopg
from psycopg.sql import SQL, Identifier

from core.backup_archive import PartFile
from core.database import build_libpq_url
from core.keeping_errors import BackupFailed, RestoreFailed
from core.postgres_programs import build_environment, find_program

_PIECE_BYTES = 1 << 20
_LOCK_TIMEOUT = "15s"
# What ties the two databases together: whoever moves a stage or registers a version holds a lock on one of these. In
# this order, for a promotion by the gate holds its training while it writes its transition on another connection.
_TIES = ("trainings", "transitions")
_TABLES = """
    SELECT namespace.nspname, class.relname
    FROM pg_class class JOIN pg_namespace namespace ON namespace.oid = class.relnamespace
    WHERE class.relkind = 'r' AND class.relpersistence = 'p' AND namespace.nspname !~ '^(pg_|information_schema)'
    ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Moment:
    """One database as it was at one moment, for as long as the block holds it: `snapshot` is what pg_dump takes."""

    url: str
    snapshot: str
    server_major: int
    revision: str | None
    rows: dict[str, int]


@contextmanager
def holding_moment(platform_url: str, tracking_url: str) -> Iterator[tuple[Moment, Moment]]:
    """Both databases as they are at one moment, platform's and MLflow's.

    Two databases share no snapshot, so nobody may be between them: for the instant of taking both no transition is
    begun or ended and no version registered. Raises BackupFailed where a registration takes too long.
    """
    with (
        psycopg.connect(build_libpq_url(platform_url), connect_timeout=10) as platform,
        psycopg.connect(build_libpq_url(tracking_url), connect_timeout=10) as tracking,
    ):
        with psycopg.connect(build_libpq_url(platform_url), connect_timeout=10) as gate:
            _close(gate)
            snapshots = [_begin(platform), _begin(tracking)]
        # Counted when everyone goes on already: it reads every table.
        first = _describe(platform, platform_url, snapshots[0])
        second = _describe(tracking, tracking_url, snapshots[1])
        yield first, second


def _close(gate: psycopg.Connection[Any]) -> None:
    gate.execute(SQL("SET LOCAL lock_timeout TO {}").format(_LOCK_TIMEOUT))
    known = {row[0] for row in gate.execute("SELECT relname FROM pg_class WHERE relname = ANY(%s)", [list(_TIES)])}
    try:
        for name in _TIES:
            if name in known:
                gate.execute(SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(Identifier(name)))
    except psycopg.errors.LockNotAvailable as error:
        raise BackupFailed("finding a moment", f"a transition or registration took {_LOCK_TIMEOUT}") from error


def _begin(connection: psycopg.Connection[Any]) -> str:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    # It lasts as long as the dump does.
    connection.execute("SET LOCAL idle_in_transaction_session_timeout TO 0")
    connection.execute("SET LOCAL statement_timeout TO 0")
    return str(_get(connection, "SELECT pg_export_snapshot()"))


def _describe(connection: psycopg.Connection[Any], url: str, snapshot: str) -> Moment:
    major = connection.info.server_version // 10000
    return Moment(url, snapshot, major, load_revision(connection), count_rows(connection))


def load_revision(connection: psycopg.Connection[Any]) -> str | None:
    """The revision that Alembic has noted in the database; None where it has none."""
    if _get(connection, "SELECT to_regclass('alembic_version')") is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def count_rows(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How many rows each table has, partitions by themselves, by schema and name."""
    counts = {}
    for schema, name in connection.execute(_TABLES).fetchall():
        count = SQL("SELECT count(*) FROM {}").format(Identifier(schema, name))
        counts[f"{schema}.{name}"] = int(connection.execute(count).fetchall()[0][0])
    return counts


def dump_database(moment: Moment, target: PartFile) -> None:
    """Write a dump of the moment to `target`, in pg_dump's own compressed format; raises BackupFailed."""
    program = find_program("pg_dump", moment.server_major)
    command = [str(program), "--format=custom", "--compress=gzip:1", "--no-owner", "--no-privileges", "--no-password"]
    command += [f"--snapshot={moment.snapshot}", "--lock-wait-timeout=30s"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            env=build_environment(moment.url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        try:
            if process.stdout is None:
                raise TypeError("the output is a pipe")
            while piece := process.stdout.read(_PIECE_BYTES):
                target.write(piece)
            code = process.wait()
        finally:
            _end(process)
        if code != 0:
            raise BackupFailed("pg_dump", _read_last(complaints, code))


def restore_database(url: str, source: IO[bytes], step: str) -> None:
    """Bring a dump into the empty database at `url`, all of it or nothing; raises RestoreFailed, naming `step`."""
    with psycopg.connect(build_libpq_url(url), connect_timeout=10) as connection:
        program = find_program("pg_restore", connection.info.server_version // 10000)
        database = str(connection.info.dbname)
    command = [str(program), f"--dbname={database}", "--single-transaction", "--exit-on-error", "--no-owner"]
    command += ["--no-privileges", "--no-password"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            env=build_environment(url),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        )
        try:
            if process.stdin is None:
                raise TypeError("the input is a pipe")
            try:
                while piece := source.read(_PIECE_BYTES):
                    process.stdin.write(piece)
                process.stdin.close()
            except BrokenPipeError as error:
                raise RestoreFailed(step, _read_last(complaints, process.wait())) from error
            code = process.wait()
        finally:
            _end(process)
        if code != 0:
            raise RestoreFailed(step, _read_last(complaints, code))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """See that the program is gone, whatever happened: to what it wrote nobody listens any more."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue


def _read_last(complaints: IO[bytes], code: int) -> str:
    complaints.seek(0)
    lines = [line.strip() for line in complaints.read().decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or f"it ended with code {code}"


def _get(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else row[0]
