"""Files that take the output of child processes: appended to, and rotated by size before a process starts."""

from pathlib import Path
from typing import BinaryIO

MAX_LOG_BYTES = 10 * 2**20
KEPT_LOGS = 3


def open_log(path: Path) -> BinaryIO:
    """Open `path` for appending, readable by its owner alone; its folder is made when missing.

    A file above `MAX_LOG_BYTES` is first renamed to `<name>.1`, the older ones move up, and beyond `KEPT_LOGS` they
    go. Not for a file that a running process still writes: that process would follow the renamed one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        for number in range(KEPT_LOGS, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
            if newer.exists():
                newer.replace(older)
    path.touch(mode=0o600)
    return path.open("ab", buffering=0)


def load_last_lines(path: Path, offset: int = 0, count: int = 5) -> str:
    """The last `count` lines of what `path` holds after `offset` bytes, joined by " | "; empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - 16384))
        lines = file.read().decode(errors="replace").split("\n")
    return " | ".join([line.strip() for line in lines if line.strip()][-count:])
