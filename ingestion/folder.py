"""The watched folder: files that are put into it are imported and moved to `done/` or `rejected/`.

There is one sub-folder a model. A file is first moved to `.taking/<id>/`, where `<id>` becomes the number of its
source; import and source are one transaction. So whoever finds the file there after a kill knows by the source
whether it was imported: nothing is lost, and nothing is imported twice.
"""

import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from sqlalchemy import Engine, select, text

from core.contract import Contract
from core.data_errors import RowsRejected, WatchedFolderRefused
from core.errors import Fault
from core.tables.data import rejected_rows, sources
from ingestion.fault_log import KEPT_FAULTS
from ingestion.importing import import_file

logger = logging.getLogger(__name__)

STEADY_S = 5.0
"""A file that was neither written to nor renamed for this long is complete."""
DONE, REJECTED, TAKING = "done", "rejected", ".taking"

_ACTOR = "folder"
_UNFINISHED = ".part"
_LONGEST_NAME_BYTES = 230
_TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_UNLOCK = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")


@dataclass(frozen=True)
class TakenFile:
    """What became of one file: where it is now, and why it was rejected, if it was."""

    model: str
    path: Path
    reason: str | None

    @property
    def is_imported(self) -> bool:
        return self.reason is None


def take_files(
    engine: Engine, contracts: Mapping[str, Contract], root: Path, *, max_bytes: int, steady_s: float = STEADY_S
) -> Iterator[TakenFile]:
    """Import every complete file under `root`/MODEL and yield what became of it, oldest first.

    The sub-folders are made where they are missing. Left alone are files that changed within `steady_s` seconds,
    names that begin with a point or end in `.part`, and further folders. A symbolic link is not followed but rejected.
    Only one process at a time works on a model's folder; others pass it over. Raises WatchedFolderRefused.
    """
    for model, contract in contracts.items():
        folder = _Folder(engine, contract, _prepare(root, model), max_bytes)
        with _locked(engine, f"folder:{model}:{folder.path}") as is_ours:
            if is_ours:
                yield from folder.finish_begun()
                yield from folder.take_new(steady_s)


def _prepare(root: Path, model: str) -> Path:
    """The model's folder with its own sub-folders, none of which leads elsewhere."""
    folder = root / model
    for path in (folder, folder / DONE, folder / REJECTED, folder / TAKING):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise WatchedFolderRefused(str(path), "it is no folder of its own; a link may lead elsewhere")
        try:
            path.mkdir(parents=path == folder, exist_ok=True)
        except OSError as error:
            raise WatchedFolderRefused(str(path), error.strerror or type(error).__name__) from error
    return folder


@contextmanager
def _locked(engine: Engine, name: str) -> Iterator[bool]:
    """Whether the lock was free; it is held for the length of the block and ends with the process."""
    with engine.connect() as connection:
        is_ours = bool(connection.scalar(_TRY_LOCK, {"name": name}))
        connection.commit()
        try:
            yield is_ours
        finally:
            if is_ours:
                connection.execute(_UNLOCK, {"name": name})
                connection.commit()


class _Folder:
    """One model's folder, held under its lock."""

    def __init__(self, engine: Engine, contract: Contract, path: Path, max_bytes: int) -> None:
        self.path = path
        self._engine = engine
        self._contract = contract
        self._max_bytes = max_bytes

    def finish_begun(self) -> Iterator[TakenFile]:
        """Go on with what an earlier process began and did not finish."""
        for claim in sorted((self.path / TAKING).iterdir()):
            if not _is_claim(claim):
                continue
            names = sorted(claim.iterdir())
            for taken in names:
                logger.warning("taking a file up again", extra={"model": self._contract.model, "file": taken.name})
                yield from self._finish(taken)
            if not names:
                # The process died between making the folder and moving the file, or after moving it on.
                claim.rmdir()

    def take_new(self, steady_s: float) -> Iterator[TakenFile]:
        """Take every complete file, oldest first."""
        for name in self._list_complete(steady_s):
            claim = self.path / TAKING / str(uuid4())
            claim.mkdir()
            try:
                (self.path / name).rename(claim / name)
            except FileNotFoundError:
                # Its owner took it back.
                claim.rmdir()
                continue
            yield from self._finish(claim / name)

    def _list_complete(self, steady_s: float) -> list[str]:
        now = time.time()
        found: list[tuple[float, str]] = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                is_taken = stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
                # The time of the last change of any kind, set by the kernel: copying keeps that of writing.
                if is_taken and not _is_unfinished(entry.name) and now - status.st_ctime >= steady_s:
                    found.append((status.st_mtime, entry.name))
        return [name for _, name in sorted(found)]

    def _finish(self, taken: Path) -> Iterator[TakenFile]:
        """Import the claimed file unless that was done already, and move it to where it belongs."""
        source_id = UUID(taken.parent.name)
        state, faults = self._load_outcome(source_id)
        if state is None:
            state, faults = self._import(taken, source_id)
        if state is None:
            # It was written to while it was read: it is not complete yet.
            taken.rename(_find_free(self.path, taken.name, source_id))
            taken.parent.rmdir()
            return
        target = _find_free(self.path / (REJECTED if faults else DONE), taken.name, source_id)
        if faults:
            # The note comes first: a file in `rejected/` always has one.
            _write_note(target, [*faults, _sign(source_id)])
        taken.rename(target)
        taken.parent.rmdir()
        yield TakenFile(self._contract.model, target, faults[0] if faults else None)

    def _import(self, taken: Path, source_id: UUID) -> tuple[str | None, list[str]]:
        """The state of the import and the sentences of its faults; no state where the file has changed meanwhile."""
        try:
            with _open_plain(taken) as stream:
                before = os.fstat(stream.fileno())
                faults = self._import_stream(stream, taken.name, source_id)
                after = os.fstat(stream.fileno())
        except OSError as error:
            return "rejected", [f"{taken.name} cannot be read: {error.strerror or type(error).__name__}."]
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return None, []
        return ("rejected" if faults else "imported"), faults

    def _import_stream(self, stream: BinaryIO, name: str, source_id: UUID) -> list[str]:
        """The sentences of the faults; none where the rows are stored."""
        try:
            import_file(
                self._engine,
                self._contract,
                stream,
                # The system's names may hold bytes that are no text.
                name=name.encode(errors="replace").decode(),
                actor=_ACTOR,
                kind="folder",
                max_bytes=self._max_bytes,
                source_id=source_id,
            )
        except RowsRejected as error:
            return [error.sentence, *(str(fault) for fault in error.faults)]
        return []

    def _load_outcome(self, source_id: UUID) -> tuple[str | None, list[str]]:
        """What the database holds of the import: its state, none where there is none, and its faults."""
        columns = rejected_rows.c
        query = select(columns.line, columns.column, columns.value, columns.rule)
        query = query.where(columns.source_id == source_id).order_by(columns.id).limit(KEPT_FAULTS)
        with self._engine.connect() as connection:
            state = connection.scalar(select(sources.c.state).where(sources.c.id == source_id))
            if state != "rejected":
                return state, []
            rows = connection.execute(query).all()
        faults = [Fault(f"line {line}, column {column}", repr(value), rule) for line, column, value, rule in rows]
        return state, ["The file was not imported.", *(str(fault) for fault in faults)]


def _is_claim(path: Path) -> bool:
    """Whether it is a folder that this module made, and no other thing that someone put there."""
    try:
        UUID(path.name)
    except ValueError:
        return False
    return path.is_dir() and not path.is_symlink()


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(_UNFINISHED)


@contextmanager
def _open_plain(path: Path) -> Iterator[BinaryIO]:
    """The file itself, never what a link of that name leads to; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no plain file")
        yield stream


def _find_free(folder: Path, name: str, source_id: UUID) -> Path:
    """A path in the folder that nothing has: the name, or the name with a number before its ending.

    The note of the same source, whose process died before it moved the file, does not count.
    """
    if len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
        # The number and the note's ending need room too.
        name = f"{Path(name).stem[:40]}{Path(name).suffix[:20]}"
    path = folder / name
    number = 1
    while os.path.lexists(path) or _has_other(_name_note(path), source_id):
        number += 1
        path = folder / f"{Path(name).stem}.{number}{Path(name).suffix}"
    return path


def _has_other(note: Path, source_id: UUID) -> bool:
    """Whether something stands in the note's place that is not the note of this source."""
    if note.is_symlink() or not note.is_file():
        return os.path.lexists(note)
    return not note.read_bytes().rstrip().endswith(_sign(source_id).encode())


def _sign(source_id: UUID) -> str:
    return f"Source {source_id}"


def _name_note(path: Path) -> Path:
    return path.with_name(f"{path.name}.txt")


def _write_note(target: Path, sentences: list[str]) -> None:
    """Write why the file was rejected beside its place, all of it or nothing."""
    note = _name_note(target)
    draft = note.with_name(f".{note.name}")
    draft.write_text("\n".join([*sentences, ""]), encoding="utf-8")
    draft.rename(note)
