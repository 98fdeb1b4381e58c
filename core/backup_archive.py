"""The file of a backup: a plain zip whose last member, the manifest, names every other with size and SHA-256.

It is written under another name and gets its own when it is whole and on disk.
"""

import fcntl
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from core.durability import sync_folder
from core.keeping_errors import BackupDamaged, BackupExists, BackupFailed, BackupNotFound, BackupTooNew, BackupUnderWay

FORMAT = 1
MANIFEST = "manifest.json"
_PIECE_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 1 << 30

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One member of the archive."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DatabasePart:
    """What is known of a dumped database: its schema's revision, its server, and the rows of every table."""

    revision: str | None
    server_major: int
    rows: dict[str, int]


@dataclass(frozen=True)
class Manifest:
    """What a backup holds."""

    format: int
    millrace: str
    created_at: str
    platform: DatabasePart
    tracking: DatabasePart
    parts: list[Part] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def list_below(self, folder: str) -> list[Part]:
        """The parts in `folder` and below it."""
        return [part for part in self.parts if part.name.startswith(f"{folder}/")]


class ArchiveWriter:
    """Adds parts to an archive that is being written."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.parts: list[Part] = []

    def add(self, name: str, write: Callable[["PartFile"], object]) -> Part:
        """Add the part that `write` writes to the file it is given."""
        check_part_name(name)
        with self._archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
            file = PartFile(member)
            write(file)
        part = Part(name, file.bytes, file.digest.hexdigest())
        self.parts.append(part)
        return part

    def add_file(self, name: str, path: Path) -> Part:
        """Add the content of the file at `path`."""
        with path.open("rb") as source:
            return self.add(name, lambda target: _copy(source, target.write))

    def add_manifest(self, manifest: Manifest) -> None:
        """Add the last member."""
        self._archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(asdict(manifest), indent=1, sort_keys=True))


class PartFile:
    """What a part's content is written to."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, content: bytes) -> int:
        """Append to the part; returns the number of bytes."""
        self.digest.update(content)
        self.bytes += len(content)
        return self._target.write(content)


@contextmanager
def writing_archive(path: Path) -> Iterator[ArchiveWriter]:
    """Write the archive at `path`, for its owner alone; it is there when the block has ended without an error.

    Raises BackupExists, BackupUnderWay, and BackupFailed where the disk refuses.
    """
    if path.exists():
        raise BackupExists(str(path))
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BackupFailed(f"writing {path}", error.strerror or str(error)) from error
    file = os.fdopen(descriptor, "r+b")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupUnderWay(str(path)) from None
        try:
            yield from _fill(file)
            if path.exists():
                raise BackupExists(str(path))
            partial.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            raise BackupFailed(f"writing {path}", error.strerror or str(error)) from error
        finally:
            partial.unlink(missing_ok=True)
    finally:
        # What a full disk did not take is still to be written; it is gone with the file.
        with suppress(OSError):
            file.close()


def _fill(file: IO[bytes]) -> Iterator[ArchiveWriter]:
    # What a killed one has left.
    file.truncate(0)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        yield ArchiveWriter(archive)
    file.flush()
    os.fsync(file.fileno())


class ArchiveReader:
    """An archive that is there; nothing in it is trusted before `verify` has returned."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self._path = path
        self._archive = archive
        self.manifest = manifest

    def verify(self, progress: Progress) -> None:
        """Read all of it and compare it with the manifest; raises BackupDamaged, naming the first part that differs."""
        read_bytes = 0
        for part in self.manifest.parts:
            digest = hashlib.sha256()
            size = 0
            try:
                with self._archive.open(part.name) as member:
                    while piece := member.read(_PIECE_BYTES):
                        digest.update(piece)
                        size += len(piece)
            except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
                raise BackupDamaged(str(self._path), part.name, f"cannot be read ({error})") from error
            if (size, digest.hexdigest()) != (part.bytes, part.sha256):
                raise BackupDamaged(str(self._path), part.name, "is not what was written")
            read_bytes += size
            progress(f"verified {read_bytes / 1e6:.1f} of {self.manifest.bytes / 1e6:.1f} MB")

    @contextmanager
    def opening(self, name: str) -> Iterator[IO[bytes]]:
        """The content of the part `name`."""
        with self._archive.open(name) as member:
            yield member

    def extract(self, name: str, target: Path) -> None:
        """Write the part `name` to the path `target`."""
        with self._archive.open(name) as member, target.open("wb") as file:
            _copy(member, file.write)


@contextmanager
def reading_archive(path: Path) -> Iterator[ArchiveReader]:
    """Open the archive at `path`; raises BackupNotFound, BackupDamaged, and BackupTooNew for one of a later form."""
    if not path.is_file():
        raise BackupNotFound(str(path))
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise BackupDamaged(str(path), "its directory", f"cannot be read ({error}); it may be cut short") from error
    with archive:
        yield ArchiveReader(path, archive, _load_manifest(path, archive))


def _load_manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    try:
        if archive.getinfo(MANIFEST).file_size > _MAX_MANIFEST_BYTES:
            raise BackupDamaged(str(path), MANIFEST, "is too large")
        document: dict[str, Any] = json.loads(archive.read(MANIFEST))
        if document["format"] != FORMAT:
            raise BackupTooNew(str(path), f"it has format {document['format']!r}, and format {FORMAT} is known here")
        manifest = Manifest(
            format=FORMAT,
            millrace=str(document["millrace"]),
            created_at=str(document["created_at"]),
            platform=DatabasePart(**document["platform"]),
            tracking=DatabasePart(**document["tracking"]),
            parts=[Part(**part) for part in document["parts"]],
        )
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise BackupDamaged(str(path), MANIFEST, f"cannot be read ({error!r})") from error
    for part in manifest.parts:
        try:
            check_part_name(part.name)
        except ValueError as error:
            raise BackupDamaged(str(path), "a name in it", str(error)) from error
    named = sorted([MANIFEST, *(part.name for part in manifest.parts)])
    if named != sorted(archive.namelist()):
        raise BackupDamaged(str(path), MANIFEST, "does not name what is there")
    return manifest


def check_part_name(name: str) -> None:
    """Raise ValueError unless the name is a plain relative path, which leads nowhere else."""
    parts = name.split("/")
    # Any other letter may be in an artifact's name: spaces that do not break lines, marks of no width.
    has_control = any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
    is_plain = all(part not in ("", ".", "..") for part in parts) and "\\" not in name and not has_control
    if not is_plain or PurePosixPath(name).is_absolute():
        raise ValueError(f"leads elsewhere: {name[:200]!r}")


def _copy(source: IO[bytes], write: Callable[[bytes], object]) -> None:
    while piece := source.read(_PIECE_BYTES):
        write(piece)
