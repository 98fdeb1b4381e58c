"""Taking a file in: one pass over its bytes that keeps a private copy, measures it and judges its form.

The copy stays as it was even if the original is written to meanwhile, and is gone with the process.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO, Literal

from core.data_errors import RowsRejected
from ingestion.encodings import Encoding, TextJudge
from ingestion.faults import RowFault

PIECE_BYTES = 1 << 20

Form = Literal["csv", "xlsx", "parquet", "json"]
_BINARY_FORMS: tuple[tuple[bytes, Form], ...] = ((b"PK\x03\x04", "xlsx"), (b"PAR1", "parquet"))
_SAVE_AS = "save it as CSV, XLSX or Parquet"
_FOREIGN = (
    (b"PK\x05\x06", "an empty ZIP file", _SAVE_AS),
    (b"PARE", "an encrypted Parquet file", "save it without encryption"),
    (b"\xd0\xcf\x11\xe0", "an old XLS file, or a workbook with a password", "save it as XLSX without a password"),
    (b"\x1f\x8b", "a gzip file", f"unpack it, or {_SAVE_AS}"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", f"unpack it, or {_SAVE_AS}"),
    (b"%PDF", "a PDF file", _SAVE_AS),
)
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|\?xml)", re.IGNORECASE)
_JSON = re.compile(rb'(\xef\xbb\xbf)?\s*(\[\s*[\[{\]]|\{\s*["}])')


@dataclass(frozen=True)
class Received:
    """A file's private copy with its size in bytes and SHA-256, its form, and the first thing wrong with that form.

    `text` is a CSV or JSON file's content in UTF-8, which is the copy itself where that is UTF-8, `text_bytes` long.
    `encoding` is what the sender said.
    """

    copy: IO[bytes]
    size_bytes: int
    sha256: str
    form: Form
    encoding: Encoding | None
    text: IO[bytes]
    text_bytes: int
    is_quote_open: bool
    fault: RowFault | None

    def read_pieces(self) -> Iterator[bytes]:
        """The whole content from the beginning, at most PIECE_BYTES at a time."""
        self.copy.seek(0)
        while piece := self.copy.read(PIECE_BYTES):
            yield piece


@contextmanager
def receiving(
    source: Path | BinaryIO, *, model: str, name: str, max_bytes: int, encoding: Encoding | None = None
) -> Iterator[Received]:
    """Take `source` in for the length of a `with`; raises RowsRejected as soon as it is larger than `max_bytes`."""
    with TemporaryFile(prefix="millrace-") as copy, TemporaryFile(prefix="millrace-") as text:
        if isinstance(source, Path):
            if source.stat().st_size > max_bytes:
                raise _too_large(model, name, source.stat().st_size, max_bytes)
            with source.open("rb") as stream:
                received = _receive(stream, copy, text, model, name, max_bytes, encoding)
        else:
            received = _receive(source, copy, text, model, name, max_bytes, encoding)
        yield received


def _receive(
    stream: BinaryIO,
    copy: IO[bytes],
    text: IO[bytes],
    model: str,
    name: str,
    max_bytes: int,
    encoding: Encoding | None,
) -> Received:
    digest = hashlib.sha256()
    judge = TextJudge(encoding, text)
    form: Form = "csv"
    fault: RowFault | None = None
    size = 0
    while piece := stream.read(PIECE_BYTES):
        if size == 0:
            form = _find_form(piece)
            fault = _find_foreign(piece)
        size += len(piece)
        if size > max_bytes:
            raise _too_large(model, name, size, max_bytes)
        digest.update(piece)
        copy.write(piece)
        if form in ("csv", "json") and fault is None:
            judge.look_at(piece)
    judge.look_at(b"", is_last=True)
    copy.seek(0)
    return Received(
        copy=copy,
        size_bytes=size,
        sha256=digest.hexdigest(),
        form=form,
        encoding=encoding,
        text=text if judge.is_transcoded else copy,
        text_bytes=judge.text_bytes if judge.is_transcoded else size,
        is_quote_open=judge.quotes % 2 == 1,
        fault=fault or judge.fault,
    )


def _find_form(piece: bytes) -> Form:
    """The form by its content; a name says nothing for certain."""
    for magic, form in _BINARY_FORMS:
        if piece.startswith(magic):
            return form
    return "json" if _JSON.match(piece) else "csv"


def _find_foreign(piece: bytes) -> RowFault | None:
    for magic, what, rule in _FOREIGN:
        if piece.startswith(magic):
            return RowFault(1, "", what, rule)
    if _PAGE.match(piece):
        return RowFault(1, "", "a web page or an XML file", _SAVE_AS)
    return None


def _too_large(model: str, name: str, size: int, max_bytes: int) -> RowsRejected:
    fault = RowFault(None, "", f"{size} bytes", f"at most {max_bytes} bytes are taken; split the file")
    return RowsRejected(model, name, [fault.to_fault()], 1)
