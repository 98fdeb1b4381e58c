"""Entries that are stored beside the requests: refusals, counted together, and what could not be stored at once.

Alike refusals between two writes are one entry with a count. The writer holds a bounded number of different ones; what
is beyond goes into one entry a status, so that a flood of refusals costs neither memory nor disk. While the database is
away all of it stays in memory and goes on being counted; the process's log has what ends with the process.
"""

import logging
import threading
from collections.abc import Hashable
from dataclasses import asdict, replace
from datetime import UTC, datetime

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from core.audit import AuditEntry, store_entries

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
MAX_REFUSALS = 100
MAX_UNSTORED = 10_000
OTHERS = "(further refusals)"
_NO_TIME = datetime.min.replace(tzinfo=UTC)


class AuditWriter:
    """Writes what it is given every two seconds, from a thread of its own between `start` and `stop`."""

    def __init__(self, engine: Engine, interval_s: float = INTERVAL_S) -> None:
        self._engine = engine
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._refusals: dict[Hashable, AuditEntry] = {}
        self._unstored: list[AuditEntry] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._is_away = False

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left and end."""
        self._stopping.set()
        self._thread.join()
        with self._lock:
            left = [*self._unstored, *self._refusals.values()]
        for entry in left:
            logger.error("an audit entry ends here, unstored: %s", asdict(entry))

    def count(self, entry: AuditEntry) -> None:
        """Take a refusal; costs a look into a dictionary."""
        with self._lock:
            self._count(entry)

    def keep(self, entry: AuditEntry) -> None:
        """Take an entry that could not be stored when it was made; it is logged too."""
        logger.error("an audit entry waits for the database: %s", asdict(entry))
        with self._lock:
            if len(self._unstored) < MAX_UNSTORED:
                self._unstored.append(entry)

    def write(self) -> bool:
        """Store all that was taken; False where the database takes nothing, and all stays."""
        with self._lock:
            unstored, refusals = self._unstored, self._refusals
            self._unstored, self._refusals = [], {}
        entries = [*unstored, *refusals.values()]
        if not entries:
            return True
        try:
            with self._engine.begin() as connection:
                store_entries(connection, entries)
        except SQLAlchemyError as error:
            with self._lock:
                self._unstored = [*unstored, *self._unstored]
                for entry in refusals.values():
                    self._count(entry)
            if not self._is_away:
                logger.warning("audit entries wait for the database: %s", error)
            self._is_away = True
            return False
        self._is_away = False
        return True

    def _count(self, entry: AuditEntry) -> None:
        key: Hashable = replace(entry, happened_at=_NO_TIME, request_id=None, times=1)
        known = self._refusals.get(key)
        if known is None and len(self._refusals) >= MAX_REFUSALS:
            entry = AuditEntry(
                entry.happened_at, entry.process, OTHERS, entry.outcome, status=entry.status, times=entry.times
            )
            key = entry.status
            known = self._refusals.get(key)
        if known is None:
            self._refusals[key] = entry
            return
        first = min(known, entry, key=lambda one: one.happened_at)
        self._refusals[key] = replace(first, times=known.times + entry.times)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self.write()
        self.write()
