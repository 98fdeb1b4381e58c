"""Missing steps of a regular series, filled as the workload declares when a snapshot is cut, and never stored."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.contract import Contract


class GapFiller:
    """Fills the gaps of rows that come batch by batch, ordered by the contract's key.

    A gap of at most `contract.longest_fill` missing steps is filled with rows one step after another from the row
    before it, which have that row's values.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._step_us = round((contract.step_s or 0.0) * 1e6)
        self.filled_rows = 0

    @property
    def is_needed(self) -> bool:
        """Whether the contract declares any filling."""
        return self._contract.gaps == "hold"

    def fill(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches with the rows that were missing; the batches' borders are others."""
        held: pa.RecordBatch | None = None
        for batch in batches:
            rows = batch if held is None else pa.concat_batches([held, batch])
            if rows.num_rows == 0:
                continue
            # What follows the last row is known with the next batch.
            held = rows.slice(rows.num_rows - 1)
            if rows.num_rows > 1:
                yield self._fill_batch(rows)
        if held is not None:
            yield held

    def _fill_batch(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """All rows but the last, each with the rows that are missing behind it."""
        time = self._contract.key.time or ""
        times_us = rows.column(time).cast(pa.int64()).to_numpy(zero_copy_only=False)
        missing = self._count_missing(rows, times_us)
        self.filled_rows += int(missing.sum())
        if not missing.any():
            return rows.slice(0, rows.num_rows - 1)
        before = np.repeat(np.arange(len(missing)), missing + 1)
        # 0 for a row that is there, else how many steps the filled row is behind it.
        ahead = np.arange(len(before)) - np.repeat(np.cumsum(missing + 1) - missing - 1, missing + 1)
        columns = []
        for field in rows.schema:
            values = rows.column(field.name).take(pa.array(before))
            if field.name == time:
                values = pa.array(times_us[before] + ahead * self._step_us).cast(field.type)
            columns.append(values)
        return pa.RecordBatch.from_arrays(columns, schema=rows.schema)

    def _count_missing(self, rows: pa.RecordBatch, times_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many rows are to be filled in behind each row but the last, `(rows - 1,)`."""
        missing = -(-np.diff(times_us) // self._step_us) - 1
        entity = self._contract.key.entity
        if entity is not None:
            names = rows.column(entity)
            is_same = pc.equal(names.slice(1), names.slice(0, len(names) - 1)).to_numpy(zero_copy_only=False)
            missing = np.where(is_same, missing, 0)
        return np.where((missing > 0) & (missing <= self._contract.longest_fill), missing, 0)
