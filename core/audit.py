"""The audit log: who did what, when, from where, and with what result.

Entries are appended and never changed, which the database itself sees to. An entry names things and holds no content:
no body, no secret, no value of a header.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import ColumnElement, Connection, Engine, func, insert, select

from core.tables.audit import audit_log

Outcome = Literal["done", "refused", "failed"]
Process = Literal["control", "serving", "cli"]

LONGEST_TEXT = 300
_PAGE_ROWS = 1_000


@dataclass(frozen=True)
class AuditEntry:
    """One action, or `times` alike ones, of which `happened_at` and `request_id` are the first's.

    `action` is method and route ("POST /models/{model}/promote"), or the command ("millrace promote"); `target` is
    what of the model it was about ("version 3"); `reason` is the kind of error.
    """

    happened_at: datetime
    process: Process
    action: str
    outcome: Outcome
    status: int | None = None
    reason: str | None = None
    actor: str | None = None
    role: str | None = None
    client: str | None = None
    model: str | None = None
    target: str | None = None
    request_id: str | None = None
    times: int = 1


@dataclass(frozen=True)
class StoredEntry(AuditEntry):
    """An entry as it stands in the log; `id` grows with the order in which entries were stored."""

    id: int = 0


@dataclass(frozen=True)
class AuditFilter:
    """Which entries are asked for; None asks for all. `action` is any part of it."""

    actor: str | None = None
    action: str | None = None
    model: str | None = None
    from_at: datetime | None = None
    to_at: datetime | None = None

    def build_conditions(self) -> list[ColumnElement[bool]]:
        """The conditions on `audit_log`."""
        columns = audit_log.c
        conditions: list[ColumnElement[bool]] = []
        if self.actor is not None:
            conditions.append(columns.actor == self.actor)
        if self.model is not None:
            conditions.append(columns.model == self.model)
        if self.action is not None:
            conditions.append(func.strpos(func.lower(columns.action), self.action.lower()) > 0)
        if self.from_at is not None:
            conditions.append(columns.happened_at >= self.from_at)
        if self.to_at is not None:
            conditions.append(columns.happened_at < self.to_at)
        return conditions


EVERYTHING = AuditFilter()
FIELDS = ("id", *AuditEntry.__dataclass_fields__)
_COLUMNS = [audit_log.c[name] for name in FIELDS]


def build_outcome(status: int) -> Outcome:
    """What an HTTP status means: refused is what the caller may not do, or not now."""
    if status in (401, 403, 429):
        return "refused"
    return "done" if 100 <= status < 400 else "failed"


def now() -> datetime:
    """The present time, UTC."""
    return datetime.now(UTC)


def store_entries(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Append the entries, their texts cut to what the log holds."""
    if entries:
        connection.execute(insert(audit_log), [asdict(_fit(entry)) for entry in entries])


def load_entries(
    connection: Connection, wanted: AuditFilter, limit: int, before: int | None = None
) -> list[StoredEntry]:
    """Entries, the newest first, from below the id `before` on."""
    query = select(*_COLUMNS).where(*wanted.build_conditions()).order_by(audit_log.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_log.c.id < before)
    return [StoredEntry(**row._mapping) for row in connection.execute(query)]


def iterate_entries(engine: Engine, wanted: AuditFilter) -> Iterator[StoredEntry]:
    """All entries that are there now, the oldest first.

    They are read page by page, each on a connection of its own, so that a slow reader holds none.
    """
    with engine.connect() as connection:
        last = connection.scalar(select(func.max(audit_log.c.id))) or 0
    reached = 0
    while True:
        query = (
            select(*_COLUMNS)
            .where(audit_log.c.id > reached, audit_log.c.id <= last, *wanted.build_conditions())
            .order_by(audit_log.c.id)
            .limit(_PAGE_ROWS)
        )
        with engine.connect() as connection:
            page = [StoredEntry(**row._mapping) for row in connection.execute(query)]
        yield from page
        if len(page) < _PAGE_ROWS:
            return
        reached = page[-1].id


def build_move(version: int | str, stage: str) -> str:
    """The `target` of an entry that moves a version to a stage; MLflow takes a stage in any case."""
    return f"version {version} to {stage.capitalize()}"


def find_mover(connection: Connection, model: str, version: int, stage: str, since: datetime | None) -> str | None:
    """Who last moved the version to this stage through the door, after `since`; None where nobody is known to have."""
    columns = audit_log.c
    query = (
        select(columns.actor)
        .where(
            columns.model == model,
            columns.target == build_move(version, stage),
            columns.outcome == "done",
            columns.happened_at > (since or datetime.min.replace(tzinfo=UTC)),
        )
        .order_by(columns.id.desc())
        .limit(1)
    )
    return connection.scalar(query)


def _fit(entry: AuditEntry) -> AuditEntry:
    return replace(
        entry,
        action=_clean(entry.action) or "",
        reason=_clean(entry.reason),
        actor=_clean(entry.actor),
        role=_clean(entry.role),
        client=_clean(entry.client),
        model=_clean(entry.model),
        target=_clean(entry.target),
        request_id=_clean(entry.request_id),
    )


def _clean(text: str | None) -> str | None:
    if text is None:
        return None
    # PostgreSQL's text holds neither of the two.
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
