"""Versions on local disk, one folder each: what serving starts from when everything else is away."""

import logging
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from core.names import check_name

logger = logging.getLogger(__name__)

_ABANDONED_AFTER_S = 3600.0


class VersionSource(Protocol):
    """Where a version's files come from: the registry."""

    def download(self, model: str, version: int, folder: Path) -> None:
        """Put the version's files into the empty `folder`; raises ModelVersionNotFound, TrackingUnavailable."""
        ...


class VersionCache:
    """`<folder>/<model>/<version>/`; a folder of that name is whole, because it was renamed only when it was.

    Several processes may share one cache.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()

    def find(self, model: str, version: int) -> Path | None:
        """The folder of a version that was downloaded whole."""
        folder = self._locate(model, version)
        if not folder.is_dir():
            return None
        # Its time says when it was last wanted.
        os.utime(folder)
        return folder

    def get(self, model: str, version: int, source: VersionSource) -> Path:
        """The version's folder, downloaded first where it is missing; raises what `source.download` raises."""
        target = self._locate(model, version)
        if target.is_dir():
            return target
        target.parent.mkdir(exist_ok=True)
        partial = target.parent / f".{version}-{uuid.uuid4().hex}"
        partial.mkdir()
        try:
            source.download(model, version, partial)
            try:
                partial.rename(target)
            except OSError:
                # Another process had it first.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        logger.info("downloaded version %s of model %s", version, model)
        return target

    def shrink(self, kept: set[tuple[str, int]]) -> None:
        """Remove the versions that were wanted longest ago while the cache is too large; `kept` and the latest stay.

        A version that is loaded needs its files no more; it is downloaded again when it is to be loaded again.
        """
        wanted_at: dict[Path, float] = {}
        sizes: dict[Path, int] = {}
        for path in self._folder.glob("*/*"):
            if path.is_dir() and not path.name.startswith("."):
                # Another process may be removing it.
                with suppress(FileNotFoundError):
                    sizes[path] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                    wanted_at[path] = path.stat().st_mtime
        total = sum(sizes.values())
        for path in sorted(wanted_at, key=lambda path: wanted_at[path]):
            if total <= self._max_bytes:
                break
            if (path.parent.name, int(path.name)) not in kept:
                self.drop(path.parent.name, int(path.name))
                total -= sizes[path]
                logger.info("removed version %s of %s from the cache, which is full", path.name, path.parent.name)

    def drop(self, model: str, version: int) -> None:
        """Remove a version that turned out to be damaged, so that it is downloaded again."""
        target = self._locate(model, version)
        aside = target.parent / f".{version}-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            target.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _locate(self, model: str, version: int) -> Path:
        return self._folder / check_name("model", model) / str(int(version))

    def _remove_abandoned(self) -> None:
        for partial in self._folder.glob("*/.*"):
            if time.time() - partial.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(partial, ignore_errors=True)
                logger.info("removed the download %s, which a process that ended left", partial.name)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path`: readers see the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}-{os.getpid()}-{uuid.uuid4().hex}")
    partial.write_bytes(content)
    partial.replace(path)
