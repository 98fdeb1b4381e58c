"""Text in the encodings that files come in: judged as it passes, and turned into UTF-8 where it is in another one.

UTF-8 and, by its byte order mark, UTF-16 are known from the file. Latin-1 and Windows-1252 are read only where the
caller says so: any bytes at all are text in them, and a guess would corrupt names.
"""

import codecs
import re
from typing import IO, Literal, get_args

from ingestion.faults import RowFault

MAX_LINE_BYTES = 1 << 20

Encoding = Literal["utf-8", "latin-1", "windows-1252"]
"""What a caller may say; each is the name of Python's codec too."""
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Letters stand above these; Windows-1252 has letters and signs here, Latin-1 only control codes that nobody writes.
_CONTROLS = re.compile("[\x80-\x9f]")
_SAVE_AS_UTF8 = "save it as UTF-8, in a spreadsheet as 'CSV UTF-8'"


class TextJudge:
    """Judges the bytes of a file as they pass; the first fault ends the judging.

    The text has to be decodable, without zero bytes, and in lines of bounded length. Where it is not UTF-8 it is
    written to `text` as UTF-8.
    """

    def __init__(self, encoding: Encoding | None, text: IO[bytes]) -> None:
        self.fault: RowFault | None = None
        self.quotes = 0
        self.is_transcoded = False
        self.text_bytes = 0
        self._given = encoding
        self._codec: str = encoding or "utf-8"
        self._decoder: codecs.IncrementalDecoder | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._is_utf8, self._is_ascii = True, True
        self._text = text
        self._line = 1
        self._unended_bytes = 0

    def look_at(self, piece: bytes, *, is_last: bool = False) -> None:
        """Judge the next bytes; call it with `is_last` once, after the last of them."""
        if self.fault is None and self._decoder is None:
            self.fault = self._choose(piece)
        if self.fault is not None or self._decoder is None:
            return
        self.fault = self._find_zero(piece) if not self._is_wide else None
        decoded = "" if self.fault else self._decode(self._decoder, piece, is_last)
        if self.fault is None and self.is_transcoded:
            self.fault = self._find_other_encoding(piece, decoded, is_last)
            piece = decoded.encode()
            self._text.write(piece)
            self.text_bytes += len(piece)
        if self.fault is None:
            self.fault = self._find_long(piece)
            self._line += piece.count(b"\n")
            self.quotes += piece.count(b'"')

    @property
    def _is_wide(self) -> bool:
        return self._codec == "utf-16"

    def _choose(self, piece: bytes) -> RowFault | None:
        """Settle the encoding by the first bytes."""
        if piece.startswith(_UTF16_MARKS):
            self._codec = "utf-16"
        elif piece.startswith(codecs.BOM_UTF8) and self._codec != "utf-8":
            return RowFault(1, "", "a byte order mark of UTF-8", f"leave encoding {self._given} out")
        self._decoder = codecs.getincrementaldecoder(self._codec)()
        self.is_transcoded = self._codec != "utf-8"
        return None

    def _find_zero(self, piece: bytes) -> RowFault | None:
        at = piece.find(b"\0")
        if at < 0:
            return None
        # ASCII in UTF-16 has a zero in every second byte.
        is_wide = abs(piece.count(b"\0") * 2 - len(piece)) * 10 < len(piece)
        what = "text encoded as UTF-16 without a byte order mark" if is_wide else "binary content (a zero byte)"
        return RowFault(self._line + piece.count(b"\n", 0, at), "", what, "save it as CSV, encoded as UTF-8")

    def _decode(self, decoder: codecs.IncrementalDecoder, piece: bytes, is_last: bool) -> str:
        try:
            decoded = decoder.decode(piece, is_last)
        except UnicodeDecodeError as error:
            # The decoder may have held back some bytes of the piece before; none of them ends a line.
            line = self._line + bytes(error.object[: error.start]).count(b"\n")
            received = bytes(error.object[error.start : error.start + 1]).hex()
            if self._codec == "utf-8":
                what = f"byte {received}, not UTF-8 (perhaps Latin-1 or Windows-1252)"
                rule = f"{_SAVE_AS_UTF8}, or say encoding latin-1 or windows-1252 where you know it"
                self.fault = RowFault(line, "", what, rule)
            else:
                self.fault = RowFault(line, "", f"byte {received}, not {self._codec}", _SAVE_AS_UTF8)
            return ""
        if "\0" in decoded:
            line = self._line + decoded.count("\n", 0, decoded.index("\0"))
            self.fault = RowFault(line, "", "binary content (a zero character)", "save it as CSV, encoded as UTF-8")
        return decoded

    def _find_other_encoding(self, piece: bytes, decoded: str, is_last: bool) -> RowFault | None:
        """What shows that the file is not in the encoding that the caller said."""
        if self._is_wide:
            return None
        if self._codec == "latin-1" and (found := _CONTROLS.search(decoded)):
            line = self._line + decoded.count("\n", 0, found.start())
            what = f"byte {ord(found.group()):02x}, no letter in Latin-1"
            return RowFault(line, "", what, "say encoding windows-1252, which has one there, or save it as UTF-8")
        self._is_ascii = self._is_ascii and piece.isascii()
        try:
            self._utf8.decode(piece, is_last)
        except UnicodeDecodeError:
            self._is_utf8 = False
            self._utf8.reset()
        # Names in another encoding are UTF-8 by chance as good as never.
        if is_last and self._is_utf8 and not self._is_ascii:
            return RowFault(1, "", "text that is UTF-8 throughout", f"leave encoding {self._given} out")
        return None

    def _find_long(self, piece: bytes) -> RowFault | None:
        first_end = piece.find(b"\n")
        length = self._unended_bytes + (first_end if first_end >= 0 else len(piece))
        self._unended_bytes = len(piece) - piece.rfind(b"\n") - 1 if first_end >= 0 else length
        # A line that begins and ends inside one piece is no longer than the piece, as good as.
        if length <= MAX_LINE_BYTES:
            return None
        return RowFault(self._line, "", f"more than {MAX_LINE_BYTES} bytes", "a line is no longer than that")
