"""Imports that die in the middle: nothing of them stays, and the next one stores every row once."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError

from core.contract import Contract
from core.database import create_database_engine, migrate_database
from core.embedded_database import EmbeddedDatabase, running_database
from core.tables.data import source_pieces, sources
from ingestion.importing import import_file
from tests.conftest import REPOSITORY
from tests.ingestion.series import build_fleet_contract, count_rows

ROWS = 200_000
WAIT_S = 60.0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of several chunks, in order."""
    path = tmp_path_factory.mktemp("faults") / "fleet.csv"
    with path.open("w") as file:
        file.write("machine,at,value,note\n")
        for at in range(ROWS):
            minutes, seconds = divmod(at, 60)
            hours, minutes = divmod(minutes, 60)
            file.write(f"a,2024-01-{1 + hours // 24:02} {hours % 24:02}:{minutes:02}:{seconds:02},{at},{'x' * 40}\n")
    return path


@pytest.fixture(scope="module")
def backwards(path: Path) -> Path:
    """The same rows, newest first, which have to be gathered."""
    backwards = path.with_name("backwards.csv")
    head, *rows = path.read_text().splitlines()
    backwards.write_text("\n".join([head, *rows[::-1]]))
    return backwards


def _check_nothing_is_left(engine: Engine, contract: Contract) -> None:
    assert count_rows(engine, contract.model) == 0
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(sources.c.model == contract.model)) == 0
        assert (
            connection.scalar(
                select(func.count()).select_from(source_pieces.join(sources)).where(sources.c.model == contract.model)
            )
            == 0
        )


def _check_the_next_goes_on(engine: Engine, contract: Contract, path: Path) -> None:
    for new in (ROWS, 0):
        result = import_file(engine, contract, path, name=path.name, actor="test")
        assert (result.rows_new, result.rows_changed, result.rows_unchanged) == (new, 0, ROWS - new)
    with engine.connect() as connection:
        total = connection.exec_driver_sql(f"SELECT count(*), sum(value) FROM observations_{contract.model}").one()  # noqa: S608 - own name
    assert tuple(total) == (ROWS, ROWS * (ROWS - 1) / 2)


_IMPORT = """
import itertools, os, signal, sys
from pathlib import Path
from core.contract import Contract
from core.database import create_database_engine
from ingestion.importing import import_file

calls = itertools.count(1)

def die(done, total):
    if next(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

contract = Contract.model_validate_json(sys.argv[2])
import_file(create_database_engine(sys.argv[1]), contract, Path(sys.argv[3]), name="x", actor="test", on_progress=die)
"""


@pytest.mark.parametrize("is_backwards", [False, True], ids=["in order", "backwards"])
def test_import_that_is_killed_in_mid_file_leaves_nothing(
    engine: Engine, database_url: str, model: str, path: Path, backwards: Path, is_backwards: bool
) -> None:
    contract = build_fleet_contract(model, step_s=1.0)
    chosen = backwards if is_backwards else path

    arguments = [sys.executable, "-c", _IMPORT, database_url, contract.model_dump_json(), str(chosen)]
    done = subprocess.run(arguments, cwd=REPOSITORY, check=False, timeout=WAIT_S)

    assert done.returncode == -signal.SIGKILL
    _check_nothing_is_left(engine, contract)
    _check_the_next_goes_on(engine, contract, chosen)


@pytest.fixture
def own_database(open_folder: Path) -> Iterator[tuple[EmbeddedDatabase, Engine]]:
    """A database that the test may kill."""
    with running_database(open_folder) as url:
        migrate_database(url)
        engine = create_database_engine(url)
        yield EmbeddedDatabase(open_folder), engine
        engine.dispose()


def test_import_whose_database_is_killed_in_mid_file_leaves_nothing(
    own_database: tuple[EmbeddedDatabase, Engine], model: str, path: Path
) -> None:
    database, engine = own_database
    contract = build_fleet_contract(model, step_s=1.0, gaps="refuse")
    killed: list[int] = []
    calls = itertools.count(1)

    def kill_server(_done: int, _total: int) -> None:
        if next(calls) == 2:
            pid = database.find_pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            database.ensure_running()

    with pytest.raises((DBAPIError, psycopg.OperationalError)):
        import_file(engine, contract, path, name=path.name, actor="test", on_progress=kill_server)

    assert len(killed) == 1
    _check_nothing_is_left(engine, contract)
    _check_the_next_goes_on(engine, contract, path)
