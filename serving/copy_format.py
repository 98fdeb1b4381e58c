"""Predictions as PostgreSQL's binary COPY takes them.

Written out here because the driver's own conversion of arrays, value by value in Python, takes longer than answering
the request did, and it would be taken from the requests that come meanwhile. Source: PostgreSQL's documentation,
"COPY", section "Binary Format", and the receive functions of the types.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from core.predicted_keys import PredictedKey
from serving.records import Entry, to_us

COLUMNS = (
    "at",
    "id",
    "model",
    "version",
    "is_refusal",
    "is_failure",
    "request_id",
    "inputs",
    "monitored",
    "outputs",
    "reason",
    "entity",
    "time",
)

_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_FIELDS = struct.pack(">h", len(COLUMNS))
_NULL = struct.pack(">i", -1)
# PostgreSQL counts microseconds from the year 2000.
_EPOCH_2000_US = 946_684_800 * 10**6
_FLOAT8_OID = 701
_NO_KEY = _NULL + _NULL
_CELL = np.dtype([("length", ">i4"), ("value", ">f8")])


def encode_copy(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The rows of `entries`, columns in the order of `COLUMNS`, in pieces of a COPY in binary format."""
    yield _SIGNATURE
    for _, group in groupby(entries, key=_get_widths):
        yield _encode_group(list(group))
    yield _END


def _get_widths(entry: Entry) -> tuple[int, int, int]:
    return entry.inputs.shape[1], entry.monitored.shape[1], entry.outputs.shape[1]


def _encode_group(entries: list[Entry]) -> bytes:
    """Entries whose arrays are equally wide: their arrays are converted together."""
    inputs = _encode_arrays(np.concatenate([entry.inputs for entry in entries]))
    monitored = _encode_arrays(np.concatenate([entry.monitored for entry in entries]))
    outputs = _encode_arrays(np.concatenate([entry.outputs for entry in entries]))
    pieces: list[bytes] = []
    row = 0
    for entry in entries:
        at = _FIELDS + struct.pack(">iq", 8, entry.at_us - _EPOCH_2000_US)
        described = b"".join(
            (
                _encode_text(entry.model),
                struct.pack(">ii", 4, entry.version),
                struct.pack(">i?", 1, entry.reason is not None),
                struct.pack(">i?", 1, entry.is_failure),
                _encode_text(entry.request_id),
            )
        )
        reason = _NULL if entry.reason is None else _encode_text(entry.reason)
        keys = [_NO_KEY] * len(entry.ids) if entry.keys is None else [_encode_key(key) for key in entry.keys]
        for row_id, key in zip(entry.ids, keys, strict=True):
            pieces += (
                at,
                b"\x00\x00\x00\x10",
                row_id.bytes,
                described,
                inputs[row],
                monitored[row],
                outputs[row],
                reason,
                key,
            )
            row += 1
    return b"".join(pieces)


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">i", len(encoded)) + encoded


def _encode_key(key: PredictedKey | None) -> bytes:
    if key is None:
        return _NO_KEY
    time_us = to_us(key.time)
    time = _NULL if time_us is None else struct.pack(">iq", 8, time_us - _EPOCH_2000_US)
    return _encode_text(key.entity) + time


def _encode_arrays(values: NDArray[np.floating]) -> list[bytes]:
    """Each row of `values (rows, width)` as a field of type float8[]."""
    rows, width = values.shape
    if width == 0:
        return [struct.pack(">iiii", 12, 0, 0, _FLOAT8_OID)] * rows
    cells = np.empty((rows, width), dtype=_CELL)
    cells["length"] = 8
    cells["value"] = values
    content = cells.tobytes()
    size = width * _CELL.itemsize
    # Length of the field; one dimension, no nulls, the type; its length and lower bound.
    head = struct.pack(">iiiiii", 20 + size, 1, 0, _FLOAT8_OID, width, 1)
    return [head + content[start : start + size] for start in range(0, rows * size, size)]
