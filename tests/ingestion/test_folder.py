"""The watched folder: what is taken and what is left, and that a kill at any moment neither loses nor doubles."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text

from core.contract import Contract
from core.data_errors import WatchedFolderRefused
from core.tables.data import sources
from ingestion import folder as folder_module
from ingestion.folder import TAKING, TakenFile, take_files
from ingestion.importing import import_file
from tests.ingestion.series import build_series_contract, count_rows, load_rejected, write_days

REPOSITORY = Path(__file__).parents[2]
_MAX_BYTES = 1 << 20


def _take(engine: Engine, contract: Contract, root: Path, *, steady_s: float = 0.0) -> list[TakenFile]:
    return list(take_files(engine, {contract.model: contract}, root, max_bytes=_MAX_BYTES, steady_s=steady_s))


def _list(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def _count_sources(engine: Engine, model: str) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).where(sources.c.model == model)) or 0


@pytest.fixture
def contract(model: str) -> Contract:
    return build_series_contract(model)


@pytest.fixture
def inbox(tmp_path: Path, contract: Contract) -> Path:
    folder = tmp_path / contract.model
    folder.mkdir()
    return folder


def test_good_file_goes_to_done_and_bad_one_to_rejected_with_the_reasons(
    engine: Engine, contract: Contract, inbox: Path
) -> None:
    (inbox / "a.csv").write_bytes(write_days(0, [1.0, 2, 3, 4, 5]))
    os.utime(inbox / "a.csv", (1, 1))
    (inbox / "b.csv").write_bytes(write_days(5, [6.0]) + b"2021-01-07,abc\n")

    taken = _take(engine, contract, inbox.parent)

    assert [(file.path.relative_to(inbox), file.is_imported) for file in taken] == [
        (Path("done/a.csv"), True),
        (Path("rejected/b.csv"), False),
    ]
    assert _list(inbox) == ["done/a.csv", "rejected/b.csv", "rejected/b.csv.txt"]
    note = (inbox / "rejected/b.csv.txt").read_text(encoding="utf-8")
    assert "line 3, column Close: 'abc' is not allowed, a finite number" in note
    assert count_rows(engine, contract.model) == 5
    assert [row[:2] for row in load_rejected(engine, contract.model)] == [(3, "Close")]
    with engine.connect() as connection:
        rows = connection.execute(
            select(sources.c.kind, sources.c.name, sources.c.state).where(sources.c.model == contract.model)
        )
        assert sorted(tuple(row) for row in rows) == [("folder", "a.csv", "imported"), ("folder", "b.csv", "rejected")]


def test_file_is_taken_only_when_nothing_changed_it_for_a_while(
    engine: Engine, contract: Contract, inbox: Path
) -> None:
    path = inbox / "slow.csv"
    path.write_bytes(b"Date,Close\n")
    # As copying does that keeps the time of the original.
    os.utime(path, (1, 1))

    assert _take(engine, contract, inbox.parent, steady_s=60.0) == []
    assert path.exists()
    path.write_bytes(write_days(0, [1.0, 2, 3, 4, 5]))
    deadline = time.monotonic() + 60.0
    while not (taken := _take(engine, contract, inbox.parent, steady_s=0.5)):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert taken[0].is_imported
    assert time.time() - taken[0].path.stat().st_mtime >= 0.5


@pytest.mark.parametrize("name", [".hidden.csv", "rows.csv.part", ".rows.csv.swp"])
def test_unfinished_names_are_left_until_they_are_renamed(
    engine: Engine, contract: Contract, inbox: Path, name: str
) -> None:
    (inbox / name).write_bytes(write_days(0, [1.0, 2, 3, 4, 5]))

    assert _take(engine, contract, inbox.parent) == []
    (inbox / name).rename(inbox / "rows.csv")

    assert [file.is_imported for file in _take(engine, contract, inbox.parent)] == [True]


def test_file_that_is_written_to_while_it_is_read_is_taken_again(
    engine: Engine, contract: Contract, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_days(0, [1.0, 2, 3, 4, 5, 6, 7])
    part = write_days(0, [1.0, 2, 3, 4, 5])
    (inbox / "rows.csv").write_bytes(part)

    def write_on(*arguments: object, **options: object) -> object:
        result = import_file(*arguments, **options)  # type: ignore[arg-type]  # as they came
        with next(inbox.glob(f"{TAKING}/*/rows.csv")).open("ab") as file:
            file.write(whole[len(part) :])
        return result

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "import_file", write_on)
        assert _take(engine, contract, inbox.parent) == []
    assert _list(inbox) == ["rows.csv"]

    assert [file.is_imported for file in _take(engine, contract, inbox.parent)] == [True]
    assert count_rows(engine, contract.model) == 7


def test_links_are_rejected_and_what_they_lead_to_stays(
    engine: Engine, contract: Contract, inbox: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_bytes(write_days(0, [1.0, 2, 3, 4, 5]))
    (inbox / "link.csv").symlink_to(secret)
    (inbox / "sub").symlink_to(tmp_path)
    (inbox / "folder").mkdir()
    (inbox / "folder" / "rows.csv").write_bytes(secret.read_bytes())

    taken = _take(engine, contract, inbox.parent)

    assert all(not file.is_imported for file in taken)
    assert _list(inbox) == [
        "folder/rows.csv",
        "rejected/link.csv",
        "rejected/link.csv.txt",
        "rejected/sub",
        "rejected/sub.txt",
    ]
    assert secret.exists()
    assert count_rows(engine, contract.model) == 0
    assert _count_sources(engine, contract.model) == 0


@pytest.mark.parametrize("name", ["", "done", "rejected", ".taking"])
def test_folder_that_leads_out_is_refused(engine: Engine, contract: Contract, inbox: Path, name: str) -> None:
    elsewhere = inbox.parent / "elsewhere"
    elsewhere.mkdir()
    path = inbox / name if name else inbox
    if not name:
        path.rmdir()
    path.symlink_to(elsewhere)

    with pytest.raises(WatchedFolderRefused, match="a link may lead elsewhere"):
        _take(engine, contract, inbox.parent)


def test_pipes_and_what_others_put_among_the_taken_are_left_alone(
    engine: Engine, contract: Contract, inbox: Path
) -> None:
    os.mkfifo(inbox / "pipe.csv")
    _take(engine, contract, inbox.parent)
    (inbox / TAKING / "notes").mkdir()
    (inbox / TAKING / "notes" / "a.csv").write_bytes(b"x")

    assert _take(engine, contract, inbox.parent) == []
    assert _list(inbox) == [".taking/notes/a.csv", "pipe.csv"]


def test_empty_and_too_large_files_are_rejected(engine: Engine, contract: Contract, inbox: Path) -> None:
    (inbox / "empty.csv").write_bytes(b"")
    (inbox / "large.csv").write_bytes(b"x" * (_MAX_BYTES + 1))

    taken = {file.path.name: file.reason or "" for file in _take(engine, contract, inbox.parent)}

    assert "an empty file" in taken["empty.csv"]
    assert f"at most {_MAX_BYTES} bytes are taken" in taken["large.csv"]


def test_names_that_come_again_or_are_odd_are_kept_apart(engine: Engine, contract: Contract, inbox: Path) -> None:
    names = ["rows.csv", "rows.csv", "rows.csv", "x" * 250 + ".csv", os.fsdecode(b"\xff.csv"), "a b'; -- é.csv"]
    for name in names:
        (inbox / name).write_bytes(write_days(0, [1.0, 2, 3, 4, 5]))
        assert [file.is_imported for file in _take(engine, contract, inbox.parent)] == [True]

    kept = _list(inbox)
    assert {"done/rows.csv", "done/rows.2.csv", "done/rows.3.csv"} <= set(kept)
    assert len(kept) == len(names)


def test_two_at_once_take_each_file_once(engine: Engine, contract: Contract, inbox: Path) -> None:
    for at in range(8):
        (inbox / f"{at}.csv").write_bytes(write_days(0, [float(at + value) for value in range(1, 6)]))
    start = threading.Barrier(2)

    def run(_: int) -> list[TakenFile]:
        start.wait()
        return _take(engine, contract, inbox.parent)

    with ThreadPoolExecutor(2) as pool:
        taken = [file for files in pool.map(run, range(2)) for file in files]

    assert len(taken) + len(_take(engine, contract, inbox.parent)) == 8
    assert _count_sources(engine, contract.model) == 8


# Stops for good at the named place: before or after the claim, inside the import, after its commit, after the note.
_TAKE_AND_HANG = """
import sys, time
from pathlib import Path
from core.contract import Contract
from core.database import create_database_engine
from ingestion import folder, importing

url, contract, root, place = sys.argv[1:]

def hang(*_, **__):
    print("here", flush=True)
    time.sleep(600)

if place == "claimed":
    folder.import_file = hang
elif place == "inside":
    importing._Import._conclude = hang
elif place == "committed":
    folder._find_free = hang
elif place == "before the move":
    rename = Path.rename

    def rename_or_hang(self, target):
        is_note = Path(target).name.endswith(".txt")
        return hang() if Path(target).parent.name in ("done", "rejected") and not is_note else rename(self, target)

    Path.rename = rename_or_hang
elif place == "moved":
    Path.rmdir = hang
elif place == "folder made":
    Path.rename = hang
contract = Contract.model_validate_json(contract)
engine = create_database_engine(url)
list(folder.take_files(engine, {contract.model: contract}, Path(root), max_bytes=1 << 20, steady_s=0))
"""


@pytest.mark.parametrize(
    ("place", "is_good"),
    [
        *((place, True) for place in ("folder made", "claimed", "inside", "committed", "before the move", "moved")),
        *((place, False) for place in ("committed", "before the move")),
    ],
)
def test_kill_at_any_moment_neither_loses_nor_doubles(
    engine: Engine, database_url: str, contract: Contract, inbox: Path, place: str, is_good: bool
) -> None:
    content = write_days(0, [1.0, 2, 3, 4, 5])
    (inbox / "rows.csv").write_bytes(content if is_good else content + b"2021-01-06,abc\n")
    arguments = [database_url, contract.model_dump_json(), str(inbox.parent), place]
    command = [sys.executable, "-c", _TAKE_AND_HANG, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        os.kill(process.pid, signal.SIGKILL)
    # What someone else stored meanwhile must not be written over by a second import.
    with engine.begin() as connection:
        if place in ("committed", "before the move", "moved") and is_good:
            connection.execute(text(f'UPDATE observations_{contract.model} SET "Close" = 99'))  # noqa: S608 - own name

    deadline = time.monotonic() + 60.0
    while any(not name.startswith(("done/", "rejected/")) for name in _list(inbox)) or list((inbox / TAKING).iterdir()):
        # The killed process' lock ends when the server notices that it is gone.
        _take(engine, contract, inbox.parent)
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert _list(inbox) == (["done/rows.csv"] if is_good else ["rejected/rows.csv", "rejected/rows.csv.txt"])
    assert _count_sources(engine, contract.model) == 1
    assert count_rows(engine, contract.model) == (5 if is_good else 0)
    if is_good and place in ("committed", "before the move", "moved"):
        with engine.connect() as connection:
            closes = connection.scalars(text(f'SELECT DISTINCT "Close" FROM observations_{contract.model}'))  # noqa: S608 - own name
            assert list(closes) == [99]
    if not is_good:
        assert "'abc' is not allowed" in (inbox / "rejected/rows.csv.txt").read_text(encoding="utf-8")
