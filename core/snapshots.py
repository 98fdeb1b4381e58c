"""Snapshots: immutable training sets, addressed by the digest of their content.

The digest is over values, not over the file: the same rows in the same columns have the same digest whatever wrote
the Parquet file, in whatever batches. `ingestion.snapshots` writes them; this side finds, reads and verifies.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from core.data_errors import SnapshotNotFound, SnapshotRejected
from core.tables.data import snapshots

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = 1


class FileStore(Protocol):
    """Where artifacts are kept: a folder, or a bucket behind the tracking server."""

    def store_file(self, local: Path, name: str) -> str:
        """Keep the file under that name; the address by which it is fetched."""
        ...

    def fetch_file(self, uri: str, local: Path) -> None:
        """Write the file of that address to the path `local`."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """The record of a snapshot; times are of its first and last observation, None where rows have no time."""

    digest: str
    model: str
    uri: str
    rows: int
    bytes: int
    first_at: datetime | None
    last_at: datetime | None


class SnapshotDigest:
    """Digest of a table that is seen batch by batch; where the batches begin does not matter.

    SHA-256 over a heading (format, model, rows, column names and types) and the SHA-256 of each column's stream: one
    byte a row for presence, then the values as 8-byte little-endian numbers (times in microseconds since 1970, absent
    ones and negative zero as 0), one byte for a boolean, length and UTF-8 bytes for text.
    """

    def __init__(self, model: str, columns: Sequence[tuple[str, str]]) -> None:
        self._model = model
        self._columns = tuple(columns)
        self._streams = [(hashlib.sha256(), hashlib.sha256(), hashlib.sha256()) for _ in columns]
        self._rows = 0

    def update(self, batch: "pa.RecordBatch") -> None:
        """Take in the next rows; the batch has the digest's columns in their order."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._rows += batch.num_rows
        for array, (presence, lengths, values) in zip(batch.columns, self._streams, strict=True):
            presence.update(array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
            if pa.types.is_string(array.type):
                filled = pc.fill_null(array, "")
                lengths.update(pc.binary_length(filled).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
                values.update("".join(filled.to_pylist()).encode())
            elif pa.types.is_boolean(array.type):
                values.update(pc.fill_null(array, False).to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
            elif pa.types.is_floating(array.type):
                numbers = pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False) + 0.0
                values.update(numbers.astype("<f8").tobytes())
            else:
                whole = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
                values.update(whole.astype("<i8").tobytes())

    def hexdigest(self) -> str:
        """The digest of what was taken in so far, 64 hexadecimal digits."""
        heading = {"format": _FORMAT, "model": self._model, "rows": self._rows, "columns": self._columns}
        total = hashlib.sha256(json.dumps(heading, sort_keys=True, separators=(",", ":")).encode())
        for streams in self._streams:
            for stream in streams:
                total.update(stream.digest())
        return total.hexdigest()


def get_snapshot(connection: Connection, digest: str) -> Snapshot:
    """The record of a snapshot; raises SnapshotNotFound."""
    snapshot = find_snapshot(connection, digest)
    if snapshot is None:
        raise SnapshotNotFound(digest)
    return snapshot


def find_snapshot(connection: Connection, digest: str) -> Snapshot | None:
    """The record of a snapshot, if there is one whose file was not removed."""
    is_there = (snapshots.c.digest == digest) & snapshots.c.removed_at.is_(None)
    row = connection.execute(select(snapshots).where(is_there)).one_or_none()
    if row is None:
        return None
    return Snapshot(
        digest=row.digest,
        model=row.model,
        uri=row.uri,
        rows=row.rows,
        bytes=row.bytes,
        first_at=row.first_at,
        last_at=row.last_at,
    )


def load_snapshot(
    connection: Connection, digest: str, files: FileStore, work_folder: Path
) -> Mapping[str, NDArray[Any]]:
    """The snapshot's columns, each `(rows,)`, in the order of the key, after its digest was verified.

    Floats are float64 with NaN for absent values, integers int64 (float64 where some are absent), booleans bool and
    text str (both object arrays where some are absent, or text), times datetime64[us] in UTC. Raises SnapshotNotFound,
    and SnapshotRejected where the stored file is not what was recorded.
    """
    import pyarrow as pa
    from pyarrow import parquet

    snapshot = get_snapshot(connection, digest)
    local = work_folder / f"{digest}.parquet"
    files.fetch_file(snapshot.uri, local)
    try:
        table = parquet.read_table(local)
    except pa.ArrowInvalid as error:
        raise SnapshotRejected(snapshot.model, f"the file of snapshot {digest} cannot be read ({error})") from error
    found = SnapshotDigest(snapshot.model, describe_columns(table.schema))
    for batch in table.to_batches():
        found.update(batch)
    if found.hexdigest() != digest:
        raise SnapshotRejected(snapshot.model, f"the file of snapshot {digest} has the digest {found.hexdigest()}")
    return {name: _to_numpy(table.column(name)) for name in table.column_names}


def describe_columns(schema: "pa.Schema") -> list[tuple[str, str]]:
    """Names and types of the columns, as the digest takes them."""
    return [(field.name, str(field.type)) for field in schema]


def _to_numpy(column: "pa.ChunkedArray") -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"))
    values: NDArray[Any] = column.to_numpy()
    return values
