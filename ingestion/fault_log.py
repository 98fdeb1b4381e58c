"""Faults of one input: kept beside the database while it is judged, because what is stored of it may be rolled back."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO
from uuid import UUID

from sqlalchemy import Connection

from core.errors import Fault
from ingestion.faults import RowFault
from ingestion.store import get_raw_connection

KEPT_FAULTS = 100
"""Faults that an error itself carries; all of them are in `rejected_rows`."""

_MOST_VALUE = 1_000
_IN_MEMORY_BYTES = 1 << 20
_PIECE_CHARS = 1 << 18


@dataclass
class SpooledFaults:
    """Every fault in order, in a file where they are many; the first few for the error.

    `total` counts those that refuse the input.
    """

    _file: IO[str]
    kept: list[Fault] = field(default_factory=list)
    total: int = 0

    def add(self, faults: Iterable[RowFault]) -> None:
        """Note faults that refuse the input."""
        for fault in faults:
            self.total += 1
            if len(self.kept) < KEPT_FAULTS:
                self.kept.append(fault.to_fault())
            self._write(fault)

    def add_left_out(self, faults: Iterable[RowFault]) -> None:
        """Note faults of rows that are left out while the others are stored."""
        for fault in faults:
            self._write(fault)

    def _write(self, fault: RowFault) -> None:
        line = "" if fault.line is None else str(fault.line)
        csv.writer(self._file).writerow([line, fault.column, fault.value[:_MOST_VALUE], fault.rule])

    def store(self, connection: Connection, model: str, source_id: UUID) -> None:
        """Write them to `rejected_rows`."""
        if not self._file.tell():
            return
        self._file.seek(0)
        statement = 'COPY rejected_rows (model, source_id, line, "column", value, rule) FROM STDIN'
        with get_raw_connection(connection).cursor() as cursor, cursor.copy(statement) as copy:
            for line, column, value, rule in csv.reader(self._file):
                copy.write_row((model, source_id, int(line) if line else None, column, value, rule))


@contextmanager
def spooling_faults() -> Iterator[SpooledFaults]:
    """An empty log for the length of a `with`."""
    with SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, mode="w+", encoding="utf-8", newline="") as file:
        yield SpooledFaults(file)
