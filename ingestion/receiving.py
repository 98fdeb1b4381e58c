"""Taking a file in: one pass over its bytes that keeps a private copy, measures it and judges its form.

The copy stays as it was even if the original is written to meanwhile, and is gone with the process.
"""

import codecs
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

from core.errors import RowsRejected
from ingestion.faults import RowFault

PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20

_MAGIC = (
    (b"PK\x03\x04", "a ZIP or XLSX file"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF file"),
)


@dataclass(frozen=True)
class Received:
    """A file's private copy, its size in bytes and SHA-256, and the first thing that keeps it from being text."""

    copy: IO[bytes]
    size_bytes: int
    sha256: str
    is_quote_open: bool
    fault: RowFault | None

    def read_pieces(self) -> Iterator[bytes]:
        """The whole content from the beginning, at most PIECE_BYTES at a time."""
        self.copy.seek(0)
        while piece := self.copy.read(PIECE_BYTES):
            yield piece


@contextmanager
def receiving(source: Path | BinaryIO, *, model: str, name: str, max_bytes: int) -> Iterator[Received]:
    """Take `source` in for the length of a `with`; raises RowsRejected as soon as it is larger than `max_bytes`."""
    if isinstance(source, Path):
        if source.stat().st_size > max_bytes:
            raise _too_large(model, name, source.stat().st_size, max_bytes)
        with source.open("rb") as stream, TemporaryFile(prefix="millrace-") as copy:
            yield _receive(stream, copy, model, name, max_bytes)
    else:
        with TemporaryFile(prefix="millrace-") as copy:
            yield _receive(source, copy, model, name, max_bytes)


def _receive(stream: BinaryIO, copy: IO[bytes], model: str, name: str, max_bytes: int) -> Received:
    digest = hashlib.sha256()
    form = _Form()
    size = 0
    while piece := stream.read(PIECE_BYTES):
        size += len(piece)
        if size > max_bytes:
            raise _too_large(model, name, size, max_bytes)
        digest.update(piece)
        copy.write(piece)
        form.look_at(piece)
    form.look_at(b"", is_last=True)
    copy.seek(0)
    return Received(copy, size, digest.hexdigest(), form.quotes % 2 == 1, form.fault)


def _too_large(model: str, name: str, size: int, max_bytes: int) -> RowsRejected:
    fault = RowFault(None, "", f"{size} bytes", f"at most {max_bytes} bytes are taken; split the file")
    return RowsRejected(model, name, [fault.to_fault()], 1)


class _Form:
    """Judges the bytes as they pass: UTF-8 text in lines of bounded length. The first fault ends the judging."""

    def __init__(self) -> None:
        self.fault: RowFault | None = None
        self.quotes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._line = 1
        self._unended_bytes = 0
        self._is_first = True

    def look_at(self, piece: bytes, *, is_last: bool = False) -> None:
        if self.fault is None:
            self.fault = self._find_foreign(piece) or self._find_undecodable(piece, is_last) or self._find_long(piece)
            self._is_first = False
            self._line += piece.count(b"\n")
            self.quotes += piece.count(b'"')

    def _find_foreign(self, piece: bytes) -> RowFault | None:
        if self._is_first:
            rule = "save it as CSV, encoded as UTF-8"
            if piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return RowFault(1, "", "text encoded as UTF-16", rule)
            for magic, what in _MAGIC:
                if piece.startswith(magic):
                    return RowFault(1, "", what, rule)
        at = piece.find(b"\0")
        if at < 0:
            return None
        # ASCII in UTF-16 has a zero in every second byte.
        is_wide = abs(piece.count(b"\0") * 2 - len(piece)) * 10 < len(piece)
        what = "text encoded as UTF-16" if is_wide else "binary content (a zero byte)"
        return RowFault(self._line + piece.count(b"\n", 0, at), "", what, "save it as CSV, encoded as UTF-8")

    def _find_undecodable(self, piece: bytes, is_last: bool) -> RowFault | None:
        try:
            self._decoder.decode(piece, is_last)
        except UnicodeDecodeError as error:
            # The decoder may have held back up to three bytes of the piece before; none of them ends a line.
            line = self._line + bytes(error.object[: error.start]).count(b"\n")
            received = bytes(error.object[error.start : error.start + 1])
            what = f"byte {received.hex()}, not UTF-8 (perhaps Latin-1 or Windows-1252)"
            return RowFault(line, "", what, "save it as UTF-8, in a spreadsheet as 'CSV UTF-8'")
        return None

    def _find_long(self, piece: bytes) -> RowFault | None:
        first_end = piece.find(b"\n")
        length = self._unended_bytes + (first_end if first_end >= 0 else len(piece))
        self._unended_bytes = len(piece) - piece.rfind(b"\n") - 1 if first_end >= 0 else length
        # A line that begins and ends inside one piece is no longer than the piece.
        if length <= MAX_LINE_BYTES:
            return None
        return RowFault(self._line, "", f"more than {MAX_LINE_BYTES} bytes", "a line is no longer than that")
