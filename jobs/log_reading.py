"""Lines out of a log file that another process is still writing, fit to be kept and shown."""

import re
from pathlib import Path

from core.job_lines import KEPT_LINES, MAX_LINE_CHARS
from core.masking import Masker

_MAX_READ_BYTES = 2**20
# Longer than any line is kept, so that a secret is never cut in two before it is masked.
_MAX_PENDING_BYTES = 2**16

# Sequences that colour and move, and what else a terminal would obey.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.?)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class LogReader:
    """What was appended to the file since it was last taken, as lines without secrets and control characters.

    Lines are given again by `read` until `accept` says that they are kept. A line without an end is given when the
    process has ended, or when it has grown too long.
    """

    def __init__(self, path: Path, masker: Masker) -> None:
        self._path = path
        self._masker = masker
        self._accepted = path.stat().st_size if path.exists() else 0
        self._read_to = self._accepted

    def read(self, *, is_ended: bool = False) -> list[str]:
        """The lines after the accepted ones; of a flood the last, behind a line that says what was left out."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as log:
            size = log.seek(0, 2)
            start = max(self._accepted, size - _MAX_READ_BYTES)
            log.seek(start)
            content = log.read(_MAX_READ_BYTES)
        lines = []
        if start > self._accepted:
            # The first may be the end of a line, with the second half of a secret.
            content = content.partition(b"\n")[2]
            lines.append(f"({size - len(content) - self._accepted} bytes of log are left out here)")
        complete, separator, pending = content.rpartition(b"\n")
        if pending and (is_ended or len(pending) > _MAX_PENDING_BYTES):
            complete, separator, pending = content, b"\n", b""
        self._read_to = size - len(pending)
        if separator:
            lines += [self._clean(line) for line in complete.decode("utf-8", errors="replace").split("\n")]
        return lines[-KEPT_LINES:]

    def accept(self) -> None:
        """What was read last is kept."""
        self._accepted = self._read_to

    def _clean(self, line: str) -> str:
        # Of a line that was written over only its last state is left on a terminal.
        shown = _ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2])
        return self._masker.mask(_CONTROLS.sub(" ", shown))[:MAX_LINE_CHARS]
