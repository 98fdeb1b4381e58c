"""Pulling rows from outside: fetched, imported like any file, and recorded whatever becomes of it."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, cast
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip

from core.contract import Contract
from core.data_errors import RowsRejected
from core.errors import MillraceError
from core.job_queue import name_worker
from core.settings import Settings
from core.tables.data import pulls
from ingestion.fetching import Fetched, Validators, fetching
from ingestion.importing import ImportResult, import_file
from ingestion.quotes import fetch_quotes
from workloads.declaration import PulledSource

_ACTOR = "schedule"
_OPEN = ("queued", "running")
_HAS_SOURCE = text("SELECT true FROM sources WHERE id = :id")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


@dataclass(frozen=True)
class Pull:
    """What one pull did: `result` is none where the address had nothing new."""

    source: str
    result: ImportResult | None


def request_pull(
    connection: Connection, model: str, source: PulledSource, due_at: datetime | None, *, actor: str = _ACTOR
) -> UUID | None:
    """Record that the source is to be pulled; None where it was recorded for that time already.

    What an earlier process began and never finished is marked as failed.
    """
    connection.execute(_LOCK, {"name": f"pull:{model}:{source.name}"})
    pull_id = uuid4()
    statement = insert_or_skip(pulls).values(
        id=pull_id,
        model=model,
        source=source.name,
        state="queued",
        actor=actor,
        address_sha256=_digest(source.address),
        due_at=due_at,
    )
    if connection.scalar(statement.on_conflict_do_nothing().returning(pulls.c.id)) is None:
        return None
    is_left = (pulls.c.model == model) & (pulls.c.source == source.name) & pulls.c.state.in_(_OPEN)
    connection.execute(
        update(pulls)
        .where(is_left & (pulls.c.id != pull_id))
        .values(state="failed", reason="its process ended before it did", finished_at=datetime.now(UTC))
    )
    return pull_id


def pull_source(
    engine: Engine, settings: Settings, contract: Contract, source: PulledSource, pull_id: UUID, *, actor: str = _ACTOR
) -> Pull:
    """Fetch the source and import what it has; the outcome is kept in `pulls`, the bytes under the source's record.

    The same rows again change nothing. One that was cancelled before it began is not carried out.

    Raises RowsRejected, AddressRefused, ExtraMissing and PullFailed.
    """
    if not _start(engine, pull_id):
        return Pull(source.name, None)
    source_id = uuid4()
    try:
        with _opening(engine, settings, contract.model, source) as fetched:
            if fetched.content is None:
                _close(engine, pull_id, state="unchanged", **_list_validators(fetched))
                return Pull(source.name, None)
            result = import_file(
                engine,
                contract,
                cast(BinaryIO, fetched.content),
                name=source.name,
                actor=actor,
                kind="pull",
                max_bytes=settings.max_upload_bytes,
                source_id=source_id,
            )
            _close(engine, pull_id, state="imported", source_id=source_id, **_list_validators(fetched))
    except RowsRejected as error:
        with engine.connect() as connection:
            is_kept = connection.scalar(_HAS_SOURCE, {"id": source_id})
        _close(engine, pull_id, state="rejected", reason=error.sentence, source_id=source_id if is_kept else None)
        raise
    except MillraceError as error:
        _close(engine, pull_id, state="failed", reason=error.sentence)
        raise
    return Pull(source.name, result)


def load_pulls(connection: Connection, model: str, limit: int = 20) -> list[Row[tuple[object, ...]]]:
    """The model's last pulls, newest first."""
    query = select(pulls).where(pulls.c.model == model).order_by(pulls.c.requested_at.desc()).limit(limit)
    return list(connection.execute(query))


@contextmanager
def _opening(engine: Engine, settings: Settings, model: str, source: PulledSource) -> Iterator[Fetched]:
    """What the source has, by its kind."""
    if source.kind == "yfinance":
        yield Fetched(fetch_quotes(source.address, datetime.now(UTC)), Validators())
        return
    with fetching(
        source.address,
        _load_validators(engine, model, source),
        max_bytes=settings.max_upload_bytes,
        allows_private=settings.pull_private,
    ) as fetched:
        yield fetched


def _load_validators(engine: Engine, model: str, source: PulledSource) -> Validators:
    """Those of the last pull whose rows were stored: what was rejected is to be fetched again."""
    query = (
        select(pulls.c.etag, pulls.c.last_modified)
        .where(
            pulls.c.model == model,
            pulls.c.source == source.name,
            pulls.c.address_sha256 == _digest(source.address),
            pulls.c.state.in_(("imported", "unchanged")),
        )
        .order_by(pulls.c.requested_at.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(query).first()
    return Validators(row.etag, row.last_modified) if row else Validators()


def note_job(connection: Connection, pull_id: UUID, job_id: int) -> None:
    """Note under which number the queue has the pull."""
    connection.execute(update(pulls).where(pulls.c.id == pull_id).values(job_id=job_id))


def fail_pull(connection: Connection, pull_id: UUID, reason: str) -> None:
    """End a pull that cannot be begun."""
    is_open = (pulls.c.id == pull_id) & pulls.c.state.in_(_OPEN)
    ended = {"state": "failed", "reason": reason, "finished_at": datetime.now(UTC)}
    connection.execute(update(pulls).where(is_open).values(ended))


def _start(engine: Engine, pull_id: UUID) -> bool:
    """Whether the pull is still to be carried out; then this process has begun it."""
    begun = {"state": "running", "attempt": pulls.c.attempt + 1, "worker": name_worker(), "started_at": func.now()}
    statement = update(pulls).where(pulls.c.id == pull_id, pulls.c.state.in_(_OPEN)).values(begun)
    with engine.begin() as connection:
        return connection.execute(statement.returning(pulls.c.id)).first() is not None


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


def _list_validators(fetched: Fetched) -> Mapping[str, str | None]:
    return {"etag": fetched.validators.etag, "last_modified": fetched.validators.last_modified}


def _close(engine: Engine, pull_id: UUID, **values: object) -> None:
    values = {"finished_at": datetime.now(UTC), **values}
    with engine.begin() as connection:
        connection.execute(update(pulls).where(pulls.c.id == pull_id).values(**values))
