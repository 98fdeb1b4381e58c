"""The prediction journal: what was answered, on this machine's disk before the answer leaves.

Each process appends to segments in a folder of its own, which it locks for as long as it lives; whoever gets the lock
of a folder may ship what a dead process left there. Beside the segments lie the reference profiles of the versions in
them, so that a journal can be shipped without anything else.
"""

import fcntl
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.reference import Reference
from core.serving_errors import JournalFull, JournalUnwritable
from serving.records import Entry, encode_entry
from serving.version_cache import write_atomically

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 8 * 2**20
_LOCK_FILE = "lock"
_SEGMENT_SUFFIX = ".journal"
_OFFSET_SUFFIX = ".shipped"
_DAMAGED_SUFFIX = ".damaged"


@dataclass(frozen=True)
class Segment:
    """One file of records: `readable_bytes` of it are whole; `is_closed` says that none will be added."""

    path: Path
    readable_bytes: int
    is_closed: bool


class Journal:
    """The journal of this process. One `write` a request has returned when `append` does.

    It survives the death of the process; the loss of power only with `is_fsync`. The folder `root` is shared by the
    processes of a machine, and all that is in it counts towards `max_bytes`.
    """

    def __init__(self, root: Path, max_bytes: int, *, is_fsync: bool = False) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._max_bytes = max_bytes
        # So that a full journal becomes free again as soon as it is shipped, its segments must be a part of it.
        self._segment_bytes = min(_SEGMENT_BYTES, max(max_bytes // 4, 1))
        self._is_fsync = is_fsync
        self._append_lock = threading.Lock()
        self._folder, self._lock_fd = _create_folder(root)
        self._closed_sizes: dict[Path, int] = {}
        self._others_bytes = 0
        self._own_bytes = 0
        self._number = 0
        self._kept: set[tuple[str, int]] = set()
        self._path, self._fd = self._open_segment()
        self._size = 0
        self.measure()

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def used_bytes(self) -> int:
        """Bytes on disk, of this process and of others."""
        return self._own_bytes + self._others_bytes

    @property
    def max_bytes(self) -> int:
        return self._max_bytes

    def append(self, entry: Entry) -> None:
        """Record the request; raises JournalFull, JournalUnwritable, and then nothing of it is recorded."""
        record = encode_entry(entry)
        with self._append_lock:
            used_bytes = self.used_bytes
            if used_bytes + len(record) > self._max_bytes:
                raise JournalFull(used_bytes, self._max_bytes)
            if self._size >= self._segment_bytes:
                os.close(self._fd)
                self._closed_sizes[self._path] = self._size
                self._number += 1
                self._path, self._fd = self._open_segment()
                self._size = 0
            self._write(record)
            self._size += len(record)
            self._own_bytes += len(record)

    def keep_reference(self, model: str, version: int, reference: Reference | None) -> None:
        """Keep the profile that this version's predictions are counted by; called before it serves."""
        if reference is not None and (model, version) not in self._kept:
            write_atomically(_locate_reference(self._folder, model, version), reference.to_json().encode())
            self._kept.add((model, version))

    def measure(self) -> None:
        """Look at what has been shipped and removed since, and at how much other processes, alive or dead, hold."""
        total = 0
        for folder in self._root.iterdir():
            if folder != self._folder:
                # Segments are removed one by one, and at the end their folder.
                with _ignoring_removal():
                    for path in folder.glob(f"*{_SEGMENT_SUFFIX}*"):
                        with _ignoring_removal():
                            total += path.stat().st_size
        self._others_bytes = total
        with self._append_lock:
            for path in [path for path in self._closed_sizes if not path.exists()]:
                self._own_bytes -= self._closed_sizes.pop(path)

    def close(self) -> None:
        """Stop writing. The folder goes, if all of it is shipped; else another process ships it."""
        with self._append_lock:
            os.close(self._fd)
            sizes = {**self._closed_sizes, self._path: self._size}
            is_shipped = all(load_offset(path) >= size for path, size in sizes.items())
            if is_shipped and not list(self._folder.glob(f"*{_DAMAGED_SUFFIX}")):
                shutil.rmtree(self._folder)
            os.close(self._lock_fd)

    def _open_segment(self) -> tuple[Path, int]:
        path = self._folder / f"{self._number:010d}{_SEGMENT_SUFFIX}"
        return path, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _write(self, record: bytes) -> None:
        try:
            written = os.write(self._fd, record)
            if self._is_fsync:
                os.fsync(self._fd)
        except OSError as error:
            self._take_back()
            raise JournalUnwritable(error.strerror or "the write failed") from error
        if written < len(record):
            self._take_back()
            raise JournalUnwritable("the disk is full")

    def _take_back(self) -> None:
        # A part of a record would hide what is appended after it.
        os.ftruncate(self._fd, self._size)


# --- what is shipped ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JournalFolder:
    """The folder of one process; `is_left` says that the process is dead, and that its lock is held meanwhile."""

    path: Path
    is_left: bool

    def load_segments(self) -> list[Segment]:
        """The segments, oldest first. A living process appends to the last one."""
        paths = sorted(self.path.glob(f"*{_SEGMENT_SUFFIX}"))
        return [Segment(path, path.stat().st_size, is_closed=self.is_left or path != paths[-1]) for path in paths]

    def remove(self) -> None:
        """Remove what is left of a dead process, once its segments are shipped; damaged ones stay."""
        if not list(self.path.glob(f"*{_DAMAGED_SUFFIX}")):
            shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def holding_folders(root: Path) -> Iterator[list[JournalFolder]]:
    """The folders in `root`, those of dead processes locked meanwhile."""
    held: list[int] = []
    folders: list[JournalFolder] = []
    try:
        for path in sorted(root.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                fd = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            is_left = take_lock(fd)
            if is_left:
                held.append(fd)
            else:
                os.close(fd)
            folders.append(JournalFolder(path, is_left))
        yield folders
    finally:
        for fd in held:
            os.close(fd)


def take_lock(fd: int) -> bool:
    """Lock the open file, unless another process has; whether it is locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- segments ----------------------------------------------------------------------------------------------------


def load_offset(path: Path) -> int:
    """Up to which byte the segment is known to be shipped."""
    try:
        return int(path.with_suffix(_OFFSET_SUFFIX).read_bytes())
    except FileNotFoundError:
        return 0


def store_offset(path: Path, offset: int) -> None:
    """Note that the segment is shipped up to `offset`. A crash before this only means that rows are offered again."""
    write_atomically(path.with_suffix(_OFFSET_SUFFIX), str(offset).encode())


def remove_segment(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(_OFFSET_SUFFIX).unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Keep a damaged segment's rest for a person to look at; it is not shipped."""
    shutil.copyfile(path, path.with_name(path.name + _DAMAGED_SUFFIX))


def find_reference(folder: Path, model: str, version: int) -> Reference | None:
    """The profile kept beside the segments of `folder`; None for a version that monitors nothing."""
    try:
        return Reference.from_json(_locate_reference(folder, model, version).read_bytes())
    except FileNotFoundError:
        return None


def _locate_reference(folder: Path, model: str, version: int) -> Path:
    return folder / f"{model}-{version}.reference.json"


def _create_folder(root: Path) -> tuple[Path, int]:
    """A locked folder under a new name; it gets that name with the lock held, so that nobody adopts it before."""
    name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
    hidden = root / f".{name}"
    hidden.mkdir(mode=0o700)
    fd = os.open(hidden / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return hidden.rename(root / name), fd


@contextmanager
def _ignoring_removal() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        logger.debug("another process shipped a segment meanwhile")
