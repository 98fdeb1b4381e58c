"""Copies of the journals for a backup: read beside the processes that write and ship them."""

import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

# An offset is noted after its rows are committed, so the one that is read first never promises too much.
_ORDER = (".shipped", ".reference.json", "lock", ".journal", ".damaged")


def read_journals(root: Path) -> Iterator[tuple[str, bytes]]:
    """Name, as `<folder>/<file>`, and content of every file of every process's journal below `root`.

    A segment that is shipped and removed meanwhile is left out: its rows are in the database by then. A record that is
    being written is cut; it was not answered yet.
    """
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            for path in _list_files(folder):
                try:
                    yield f"{folder.name}/{path.name}", path.read_bytes()
                except FileNotFoundError:
                    logger.debug("shipped meanwhile", extra={"segment": str(path)})


def _list_files(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.name.endswith(_ORDER) and not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: (next(at for at, end in enumerate(_ORDER) if path.name.endswith(end)), path))
