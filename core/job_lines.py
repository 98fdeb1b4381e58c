"""The lines that a job wrote: the last of each job, in the database, so that every machine can follow it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from core.tables.trainings import job_lines

KEPT_LINES = 2000
"""Lines that are kept of one job; older ones go."""
MAX_LINE_CHARS = 2000


@dataclass(frozen=True)
class JobLine:
    """One line; `number` grows along a job, with gaps."""

    number: int
    attempt: int
    written_at: datetime
    text: str


_COLUMNS = [job_lines.c[name] for name in JobLine.__dataclass_fields__]


def append_lines(connection: Connection, job_id: uuid.UUID, attempt: int, lines: Sequence[str]) -> None:
    """Keep lines of this attempt, each cut to MAX_LINE_CHARS; of the job the last KEPT_LINES stay."""
    if not lines:
        return
    rows = [{"job_id": job_id, "attempt": attempt, "text": line[:MAX_LINE_CHARS]} for line in lines[-KEPT_LINES:]]
    connection.execute(insert(job_lines), rows)
    newest_too_old = (
        select(job_lines.c.number)
        .where(job_lines.c.job_id == job_id)
        .order_by(job_lines.c.number.desc())
        .offset(KEPT_LINES)
        .limit(1)
        .scalar_subquery()
    )
    connection.execute(delete(job_lines).where(job_lines.c.job_id == job_id, job_lines.c.number <= newest_too_old))


def load_last_lines(connection: Connection, job_id: uuid.UUID, limit: int) -> list[JobLine]:
    """The last `limit` lines of the job, in their order."""
    statement = select(*_COLUMNS).where(job_lines.c.job_id == job_id).order_by(job_lines.c.number.desc()).limit(limit)
    return [JobLine(**row._mapping) for row in connection.execute(statement)][::-1]


def load_lines_after(connection: Connection, job_id: uuid.UUID, number: int, limit: int) -> list[JobLine]:
    """The first `limit` lines after line `number` that are still kept, in their order."""
    statement = (
        select(*_COLUMNS)
        .where(job_lines.c.job_id == job_id, job_lines.c.number > number)
        .order_by(job_lines.c.number)
        .limit(limit)
    )
    return [JobLine(**row._mapping) for row in connection.execute(statement)]
