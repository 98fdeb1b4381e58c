"""The digest of a snapshot's content, against the bytes that its description promises."""

import hashlib
import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from core.snapshots import SnapshotDigest, describe_columns

TABLE = pa.table(
    {
        "at": pa.array(
            [datetime(2024, 1, 1, tzinfo=UTC), None, datetime(1969, 12, 31, tzinfo=UTC)], pa.timestamp("us", "UTC")
        ),
        "x": pa.array([1.5, -0.0, None], pa.float64()),
        "n": pa.array([7, None, -1], pa.int64()),
        "is_on": pa.array([True, False, None], pa.bool_()),
        "word": pa.array(["ä", None, ""], pa.string()),
    }
)


def _digest(table: pa.Table, rows_per_batch: int) -> str:
    digest = SnapshotDigest("m", describe_columns(table.schema))
    for batch in table.to_batches(max_chunksize=rows_per_batch):
        digest.update(batch)
    return digest.hexdigest()


def test_digest_is_of_the_bytes_that_it_documents() -> None:
    heading = {
        "columns": [
            ["at", "timestamp[us, tz=UTC]"],
            ["x", "double"],
            ["n", "int64"],
            ["is_on", "bool"],
            ["word", "string"],
        ],
        "format": 1,
        "model": "m",
        "rows": 3,
    }
    streams = [
        (b"\1\0\1", b"", np.array([1_704_067_200_000_000, 0, -86_400_000_000], "<i8").tobytes()),
        (b"\1\1\0", b"", np.array([1.5, 0.0, 0.0], "<f8").tobytes()),
        (b"\1\0\1", b"", np.array([7, 0, -1], "<i8").tobytes()),
        (b"\1\1\0", b"", b"\1\0\0"),
        (b"\1\0\1", np.array([2, 0, 0], "<i8").tobytes(), "ä".encode()),
    ]
    expected = hashlib.sha256(json.dumps(heading, separators=(",", ":")).encode())
    for parts in streams:
        for part in parts:
            expected.update(hashlib.sha256(part).digest())

    assert _digest(TABLE, 3) == expected.hexdigest()


@pytest.mark.parametrize("rows_per_batch", [1, 2])
def test_digest_does_not_depend_on_batches(rows_per_batch: int) -> None:
    assert _digest(TABLE, rows_per_batch) == _digest(TABLE, 3)


def test_text_that_moves_between_rows_is_another_digest() -> None:
    one, other = (pa.table({"word": pa.array(words, pa.string())}) for words in (["ab", "c"], ["a", "bc"]))

    assert _digest(one, 2) != _digest(other, 2)
