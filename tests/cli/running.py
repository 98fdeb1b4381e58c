"""Commands in a home of the test's own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from core.database import build_libpq_url
from core.embedded_database import running_database
from tests.conftest import REPOSITORY, find_free_port


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


def run_process(home: Path, *arguments: str, **environment: str) -> Done:
    """Runs a command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=home,
        env={**os.environ, **build_environment(home), **environment},
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def build_environment(home: Path) -> dict[str, str]:
    """Settings of the home, with a tracking server that does not run."""
    return {
        "COLUMNS": "300",
        "TERM": "dumb",
        "PYTHONPATH": str(REPOSITORY),
        "MILLRACE_HOME": str(home),
        "MILLRACE_TRACKING_PORT": str(find_free_port()),
    }


def count_rows(home: Path) -> int:
    """Observations of prices that the home's database holds."""
    with running_database(home) as url, psycopg.connect(build_libpq_url(url)) as connection:
        row = connection.execute("SELECT count(*) FROM observations_prices").fetchone()
        assert row is not None
        return int(row[0])
