"""The audit log's observer in the control plane: no route of it, and none behind its door, can forget an entry.

A changing request is not answered before its entry is stored. Where the database is away, such a request fails by
itself, since what it would change is there; the door, behind which MLflow may have a database of its own, asks first.
In the moment between, the entry waits in memory, and the process's log has it. Refusals change nothing: they are
counted, and stored beside the requests.
"""

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from control.outages import DATABASE_ERRORS, build_outage
from core.audit import store_entries
from web.audit_writer import AuditWriter
from web.auditing import REFUSALS, build_entry, is_changing


class AuditTrail:
    """Makes the entries; `record` is the request door's hook."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = AuditWriter(engine)

    def start(self) -> None:
        """Begin to store what is counted."""
        self._writer.start()

    def stop(self) -> None:
        """Store what is left."""
        self._writer.stop()

    async def record(self, scope: Scope, status: int) -> None:
        """Count a refusal, or store the entry of a changing request; returns when it is stored, or waits in memory."""
        if status in REFUSALS or is_changing(scope):
            await run_in_threadpool(self._record, scope, status)

    def check_database(self) -> None:
        """Raise DatabaseUnavailable where no entry could be stored now."""
        try:
            with self._engine.connect() as connection:
                connection.execute(select(1))
        except DATABASE_ERRORS as error:
            raise build_outage(self._engine.url) from error

    def _record(self, scope: Scope, status: int) -> None:
        entry = build_entry(scope, status, "control")
        # Whoever has not signed in can fail as often as they like: that must not fill the disk either.
        if status in REFUSALS or (entry.role is None and entry.outcome == "failed"):
            self._writer.count(entry)
            return
        try:
            with self._engine.begin() as connection:
                store_entries(connection, [entry])
        except SQLAlchemyError:
            self._writer.keep(entry)
