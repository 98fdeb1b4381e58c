"""Shipping of the journal to the database: every record once, counted once.

One transaction inserts a batch of predictions, skipping those that are there already, and adds exactly the inserted
ones to the hourly counts. Only then is the journal's offset moved. A crash in between offers the batch again, and
nothing of it is inserted or counted a second time. Outcomes that came before their prediction are joined with it there.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine

from core.contracts import load_contracts
from core.database import create_partitions
from core.outcome_joins import SHIPPED, join_shipped
from serving.copy_format import COLUMNS, encode_copy
from serving.counting import HOUR_US, Hour, HourKey, add_counts, to_time
from serving.journal import (
    Segment,
    find_reference,
    holding_folders,
    load_offset,
    remove_segment,
    set_aside,
    store_offset,
)
from serving.records import Entry, RecordDamaged, read_entries

logger = logging.getLogger(__name__)

_BATCH_BYTES = 4 * 2**20

_COUNTED = ("predictions", "refusals", "answers", "failures")
_COLUMN_LIST = ", ".join(COLUMNS)


class Shipper:
    """Ships the journals of all processes under `root`, living and dead, one at a time.

    The engine must be the shipper's own: its one connection keeps a temporary table.
    """

    def __init__(self, engine: Engine, root: Path) -> None:
        self._engine = engine
        self._root = root

    def ship_once(self) -> int:
        """Ship all that is recorded now; returns the number of rows that were new to the database.

        Raises the OperationalError of SQLAlchemy or psycopg where the database is away.
        """
        rows = 0
        with holding_folders(self._root) as folders:
            for folder in folders:
                for segment in folder.load_segments():
                    rows += self._ship_segment(segment)
                    if segment.is_closed:
                        remove_segment(segment.path)
                if folder.is_left:
                    folder.remove()
        return rows

    def _ship_segment(self, segment: Segment) -> int:
        offset = load_offset(segment.path)
        rows = 0
        while offset < segment.readable_bytes:
            entries, shipped_to = _load_batch(segment, offset)
            if shipped_to == offset:
                if segment.is_closed:
                    logger.info("%s ends in a record that was never finished, nor answered", segment.path.name)
                break
            if entries:
                with self._engine.begin() as connection:
                    rows += store_entries(connection, entries, segment.path.parent)
            store_offset(segment.path, shipped_to)
            offset = shipped_to
        return rows


def _load_batch(segment: Segment, offset: int) -> tuple[list[Entry], int]:
    """Whole records from `offset` on, some megabytes of them, and the offset after the last.

    The offset is the given one where only the beginning of a record is left; where the rest is damaged, there are no
    records and the offset is the end.
    """
    size = _BATCH_BYTES
    while True:
        with segment.path.open("rb") as file:
            file.seek(offset)
            content = file.read(min(size, segment.readable_bytes - offset))
        entries: list[Entry] = []
        end = 0
        try:
            for entry, end in read_entries(content):  # noqa: B007  the last value is used below
                entries.append(entry)
        except RecordDamaged as damage:
            if not entries:
                if not segment.is_closed:
                    # Read while the process took back a record that it could not finish: the next look sees it whole.
                    return [], offset
                place = offset + damage.offset
                logger.exception("%s is damaged at byte %d, a copy is set aside", segment.path, place)
                set_aside(segment.path)
                return [], segment.readable_bytes
        if entries or offset + len(content) >= segment.readable_bytes:
            return entries, offset + end
        # One record that is longer than a batch.
        size *= 4


def store_entries(connection: Connection, entries: Sequence[Entry], folder: Path) -> int:
    """Insert what is new of `entries` and count it, in the transaction of `connection`; returns the new rows.

    Reference profiles are those kept in `folder`.
    """
    first_us, last_us = min(entry.at_us for entry in entries), max(entry.at_us for entry in entries)
    create_partitions(connection, "predictions", to_time(first_us), to_time(last_us), "month")
    inserted = _insert_new(connection, entries)
    hours: dict[HourKey, Hour] = {}
    for entry in entries:
        new = [position for position, row_id in enumerate(entry.ids) if row_id in inserted]
        if new:
            hour = hours.setdefault((entry.model, entry.version, entry.at_us // HOUR_US), Hour())
            hour.add(entry, None if len(new) == len(entry.ids) else new)
    add_counts(connection, hours, lambda model, version: find_reference(folder, model, version))
    # Last, since it waits for those who store outcomes: nobody waits for this transaction meanwhile.
    for contract in load_contracts(connection, {entry.model for entry in entries}):
        join_shipped(connection, contract)
    return len(inserted)


def _insert_new(connection: Connection, entries: Sequence[Entry]) -> set[UUID]:
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError(f"a psycopg connection is needed, not {type(raw).__name__}")
    with raw.cursor() as cursor:
        # Kept for the session: a new one each time would swell the database's own catalogue.
        cursor.execute(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {SHIPPED} (LIKE predictions) ON COMMIT DELETE ROWS",
        )
        with cursor.copy(f"COPY {SHIPPED} ({_COLUMN_LIST}) FROM STDIN (FORMAT BINARY)") as copy:
            for piece in encode_copy(entries):
                copy.write(piece)
        cursor.execute(
            f"INSERT INTO predictions ({_COLUMN_LIST}) SELECT {_COLUMN_LIST} FROM {SHIPPED}"  # noqa: S608  both are ours
            " ON CONFLICT DO NOTHING RETURNING id"
        )
        return {row[0] for row in cursor.fetchall()}
