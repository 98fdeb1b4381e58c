"""Records of the prediction journal as bytes: one a request, whatever its number of rows.

A record is an eight-byte header (length and CRC-32 of what follows), the length of the description, the description
as JSON, the ids of the rows (16 bytes each), and the arrays inputs (float32), monitored (float64), outputs (float32),
row after row. A torn tail is recognised by its length, damage by its checksum.
"""

import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray

from core.predicted_keys import PredictedKey

_HEADER = struct.Struct(">II")
_DESCRIPTION_LENGTH = struct.Struct(">I")
_ID_BYTES = 16
_MAX_RECORD_BYTES = 2**30
_MAX_REASON_CHARS = 2_000
_FLOAT32: np.dtype[np.floating] = np.dtype("<f4")
_FLOAT64: np.dtype[np.floating] = np.dtype("<f8")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def _no_rows(dtype: type[np.floating]) -> NDArray[np.floating]:
    return np.empty((1, 0), dtype=dtype)


@dataclass(slots=True, eq=False)
class Entry:
    """One request: answered, or not, for `reason`: refused, or failed where `is_failure` says that the version was
    at fault.

    `inputs` is `(rows, steps * features)`, `monitored` `(rows, monitored)`, `outputs` `(rows, outputs)`; what was not
    answered is one row without values, and `refused` is what was wrong of it, each column and kind of fault once.
    `at_us` is microseconds since 1970, UTC. `keys` says of each row what it is about, where the request does.
    """

    at_us: int
    model: str
    version: int
    request_id: str
    ids: list[UUID]
    inputs: NDArray[np.floating] = field(default_factory=lambda: _no_rows(np.float32))
    monitored: NDArray[np.floating] = field(default_factory=lambda: _no_rows(np.float64))
    outputs: NDArray[np.floating] = field(default_factory=lambda: _no_rows(np.float32))
    reason: str | None = None
    refused: tuple[tuple[str, str], ...] = ()
    is_failure: bool = False
    keys: list[PredictedKey | None] | None = None


class RecordDamaged(Exception):
    """The bytes at `offset` are not a record, and are not the beginning of one either."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no record at byte {offset}")
        self.offset = offset


def now_us() -> int:
    """Now, in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def encode_entry(entry: Entry) -> bytes:
    """The record of an entry."""
    described: dict[str, object] = {
        "at_us": entry.at_us,
        "model": entry.model,
        "version": entry.version,
        "request_id": entry.request_id,
        "rows": len(entry.ids),
        "inputs": entry.inputs.shape[1],
        "monitored": entry.monitored.shape[1],
        "outputs": entry.outputs.shape[1],
        "reason": None if entry.reason is None else entry.reason[:_MAX_REASON_CHARS],
        "refused": entry.refused,
        "is_failure": entry.is_failure,
    }
    if entry.keys is not None:
        described["keys"] = [None if key is None else (key.entity, to_us(key.time)) for key in entry.keys]
    description = orjson.dumps(described)
    payload = b"".join(
        (
            _DESCRIPTION_LENGTH.pack(len(description)),
            description,
            *[row_id.bytes for row_id in entry.ids],
            _to_bytes(entry.inputs, _FLOAT32),
            _to_bytes(entry.monitored, _FLOAT64),
            _to_bytes(entry.outputs, _FLOAT32),
        )
    )
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _to_bytes(values: NDArray[np.floating], dtype: np.dtype[np.floating]) -> bytes:
    return (values if values.dtype == dtype else values.astype(dtype)).tobytes()


def read_entries(content: bytes) -> Iterator[tuple[Entry, int]]:
    """Every whole record in `content`, with the offset of the byte after it.

    Ends before a record of which only the beginning is there; raises RecordDamaged where the bytes are no record.
    """
    offset = 0
    while offset + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, offset)
        if length > _MAX_RECORD_BYTES or length < _DESCRIPTION_LENGTH.size:
            raise RecordDamaged(offset)
        start = offset + _HEADER.size
        if start + length > len(content):
            return
        payload = content[start : start + length]
        if zlib.crc32(payload) != checksum:
            raise RecordDamaged(offset)
        offset = start + length
        yield _decode_payload(payload), offset


def _decode_payload(payload: bytes) -> Entry:
    (length,) = _DESCRIPTION_LENGTH.unpack_from(payload)
    at = _DESCRIPTION_LENGTH.size + length
    described = orjson.loads(payload[_DESCRIPTION_LENGTH.size : at])
    rows: int = described["rows"]
    ids = [UUID(bytes=payload[at + i * _ID_BYTES : at + (i + 1) * _ID_BYTES]) for i in range(rows)]
    at += rows * _ID_BYTES
    arrays = {}
    for name, dtype in (("inputs", _FLOAT32), ("monitored", _FLOAT64), ("outputs", _FLOAT32)):
        width: int = described[name]
        arrays[name] = np.frombuffer(payload, dtype, rows * width, at).reshape(rows, width)
        at += arrays[name].nbytes
    return Entry(
        at_us=described["at_us"],
        model=described["model"],
        version=described["version"],
        request_id=described["request_id"],
        ids=ids,
        reason=described["reason"],
        # Records of the release before do not have these.
        refused=tuple((column, kind) for column, kind in described.get("refused", ())),
        is_failure=described.get("is_failure", False),
        keys=_decode_keys(described.get("keys")),
        **arrays,
    )


def to_us(time: datetime | None) -> int | None:
    """A time in microseconds since 1970, UTC."""
    return None if time is None else (time - _EPOCH) // _TICK


def _decode_keys(described: list[tuple[str, int | None] | None] | None) -> list[PredictedKey | None] | None:
    if described is None:
        return None
    return [
        None if key is None else PredictedKey(key[0], None if key[1] is None else _EPOCH + key[1] * _TICK)
        for key in described
    ]
