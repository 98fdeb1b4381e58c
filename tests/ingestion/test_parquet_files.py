"""Parquet: columns typed against the contract, and files that are damaged or too large."""

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from core.contract import Column, Contract, Dtype
from core.data_errors import RowsRejected
from ingestion import parquet_files
from ingestion.faults import Unreadable
from ingestion.importing import import_file
from ingestion.parquet_files import read_parquet
from ingestion.receiving import receiving
from tests.ingestion.series import build_table_contract


def _write(columns: dict[str, pa.Array], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def _build(model: str, dtype: Dtype) -> Contract:
    """A table whose first column has the type, beside a target."""
    return build_table_contract(
        model, Column(name="x", dtype=dtype, is_nullable=True), Column(name="y", dtype="integer")
    ).model_copy(update={"features": ("y",)})


def _store(engine: Engine, contract: Contract, content: bytes) -> list[Any]:
    import_file(engine, contract, io.BytesIO(content), name="file", actor="test")
    query = f"SELECT x FROM observations_{contract.model} ORDER BY y"  # noqa: S608 - own name
    with engine.connect() as connection:
        return list(connection.scalars(text(query)))


_NOON = datetime(2021, 1, 1, 12, tzinfo=UTC)
_MICROSECONDS = np.array(["1969-12-31T23:59:59.999999999", "2021-01-01T12:00:00.123456789"], dtype="datetime64[ns]")

TYPED: dict[str, tuple[Dtype, pa.Array, list[Any]]] = {
    "doubles": ("float", pa.array([0.1, None]), [0.1, None]),
    "singles": ("float", pa.array([0.5, 1.5], pa.float32()), [0.5, 1.5]),
    "integers as floats": ("float", pa.array([1, 2], pa.int32()), [1.0, 2.0]),
    "decimals": ("float", pa.array([Decimal("1.25"), None], pa.decimal128(9, 2)), [1.25, None]),
    "numbers as text": ("float", pa.array(["1.5", ""]), [1.5, None]),
    "small integers": ("integer", pa.array([1, None], pa.uint8()), [1, None]),
    "whole floats": ("integer", pa.array([1.0, None]), [1, None]),
    "text": ("text", pa.array(["é", None]), ["é", None]),
    "text in a dictionary": ("text", pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
    "large text": ("text", pa.array(["b", "a"], pa.large_string()), ["b", "a"]),
    "integers as text": ("text", pa.array([7, None]), ["7", None]),
    "booleans": ("boolean", pa.array([True, None]), [True, None]),
    "nothing": ("float", pa.nulls(2), [None, None]),
    "days": ("time", pa.array([date(2021, 1, 1), None]), [datetime(2021, 1, 1, tzinfo=UTC), None]),
    "seconds without a zone": (
        "time",
        pa.array([datetime(2021, 1, 1, 12), None], pa.timestamp("s")),  # noqa: DTZ001 - cells have no zone
        [_NOON, None],
    ),
    "times with a zone": (
        "time",
        pa.array([_NOON, None], pa.timestamp("ms", "Asia/Tokyo")),
        [_NOON, None],
    ),
    "nanoseconds": (
        "time",
        pa.array(_MICROSECONDS),
        [datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), datetime(2021, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)],
    ),
    "times as text": ("time", pa.array(["2021-01-01T12:00:00Z", None]), [_NOON, None]),
}


@pytest.mark.parametrize("case", TYPED)
def test_typed_column_is_stored_exactly(engine: Engine, model: str, case: str) -> None:
    dtype, values, expected = TYPED[case]

    stored = _store(engine, _build(model, dtype), _write({"y": pa.array([1, 2]), "X": values}))

    assert stored == expected


UNFIT: dict[str, tuple[Dtype, pa.Array, str]] = {
    "floats as text": ("text", pa.array([1.5, 2.0]), "'double' is not allowed, a column of text or whole numbers"),
    "lists": ("float", pa.array([[1.0], [2.0]]), "a column of numbers or text is needed"),
    "numbers as times": ("time", pa.array([1, 2]), "'int64' is not allowed, a column of timestamps"),
    "numbers as booleans": ("boolean", pa.array([1, 0]), "a column of booleans or text"),
    "bytes": ("text", pa.array([b"a", b"b"]), "'binary' is not allowed"),
    "not whole": ("integer", pa.array([1.0, 1.5]), "line 2, column x: '1.5' is not allowed, a whole number"),
    "too large": ("integer", pa.array([1, 2**63], pa.uint64()), "line 2, column x: '9223372036854775808'"),
    "not finite": ("float", pa.array([1.0, float("inf")]), "line 2, column x: 'inf' is not allowed, a finite number"),
    "NaN": ("float", pa.array([float("nan"), 1.0]), "line 1, column x: 'nan' is not allowed, a finite number"),
    "no number": ("float", pa.array(["1", "abc"]), "line 2, column x: 'abc' is not allowed"),
    "future": ("time", pa.array([date(2021, 1, 1), date(2999, 1, 1)]), "line 2, column x"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_column_that_does_not_fit_is_refused_by_its_type_or_its_cell(engine: Engine, model: str, case: str) -> None:
    dtype, values, sentence = UNFIT[case]
    contract = _build(model, dtype)
    if case == "future":
        contract = contract.model_copy(update={"key": contract.key.model_copy(update={"time": "x"})})

    with pytest.raises(RowsRejected) as caught:
        _store(engine, contract, _write({"x": values, "y": pa.array([1, 2])}))

    assert sentence in caught.value.sentence


def test_frame_that_pandas_writes_is_read_with_its_index(engine: Engine, model: str) -> None:
    frame = pd.DataFrame({"y": [1, 2]}, index=pd.DatetimeIndex(["2021-01-01", "2021-01-02"], name="x"))

    stored = _store(engine, _build(model, "time"), frame.to_parquet())

    assert stored == [datetime(2021, 1, 1, tzinfo=UTC), datetime(2021, 1, 2, tzinfo=UTC)]


def test_rows_of_all_row_groups_come_in_batches_with_their_numbers(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(parquet_files, "BATCH_ROWS", 64)
    content = _write({"x": pa.array(np.arange(1000.0)), "y": pa.array(range(1000))}, row_group_size=150)

    with receiving(io.BytesIO(content), model=model, name="x", max_bytes=1 << 20) as received:
        chunks = list(read_parquet(received, _build(model, "float")).rows)

    assert max(len(chunk.lines) for chunk in chunks) <= 64
    assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == list(range(1, 1001))
    assert chunks[0].cells["x"].type == pa.float64()


def test_row_group_and_texts_that_unpack_to_too_much_are_refused(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    content = _write({"x": pa.array(["a" * 10_000] * 5_000), "y": pa.array(range(5_000))})
    assert len(content) < 100_000

    def read() -> None:
        with receiving(io.BytesIO(content), model=model, name="x", max_bytes=1 << 20) as received:
            list(read_parquet(received, _build(model, "text")).rows)

    monkeypatch.setattr(parquet_files, "MAX_BATCH_TEXT_BYTES", 10_000_000)
    with pytest.raises(Unreadable, match="50000000 bytes of text in 5000 rows"):
        read()
    monkeypatch.setattr(parquet_files, "MAX_GROUP_BYTES", 1_000)
    with pytest.raises(Unreadable, match="write smaller row groups"):
        read()


@pytest.mark.parametrize("cut", [4, 100, -10])
def test_damaged_file_is_refused(engine: Engine, model: str, cut: int) -> None:
    content = _write({"x": pa.array([1.0, 2.0]), "y": pa.array([1, 2])})

    with pytest.raises(RowsRejected, match="write it anew"):
        _store(engine, _build(model, "float"), content[:cut])


def test_damaged_page_is_refused_where_the_file_has_checksums(engine: Engine, model: str) -> None:
    values = pa.array(np.random.default_rng(1).normal(size=5000))
    content = bytearray(_write({"x": values, "y": pa.array(range(5000))}, write_page_checksum=True))
    content[100:20_000] = bytes(19_900)

    with pytest.raises(RowsRejected, match="write it anew"):
        _store(engine, _build(model, "float"), bytes(content))
