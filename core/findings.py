"""Findings: the result of each monitoring check, with its reasons and what it started."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.dialects.postgresql import insert

from core.errors import FindingNotFound
from core.tables.monitoring import findings

Outcome = Literal["fine", "alert", "data_incident", "retrain"]


@dataclass(frozen=True)
class Finding:
    """One row of table `findings`.

    `statistic` and `threshold` are those of the feature that strayed furthest in units of its threshold, or of
    performance the realised error and the upper end of what was promised; `measure` is the whole measure. The window
    runs from `window_from_at` to `window_to_at`, UTC.
    """

    id: uuid.UUID
    model: str
    version: int
    subject: str
    outcome: Outcome
    is_drifted: bool
    reasons: Sequence[str]
    statistic: float | None
    threshold: float | None
    rows: int
    measure: Mapping[str, object]
    report_uri: str | None
    training_id: uuid.UUID | None
    window_from_at: datetime | None
    window_to_at: datetime | None
    found_at: datetime


_COLUMNS = [findings.c[name] for name in Finding.__dataclass_fields__]


def _build(row: Row[tuple[object, ...]]) -> Finding:
    return Finding(**row._mapping)


def store_finding(connection: Connection, finding: Finding) -> None:
    """Store a finding in the caller's transaction."""
    connection.execute(insert(findings).values({name: getattr(finding, name) for name in Finding.__dataclass_fields__}))


def attach_report(connection: Connection, finding_id: uuid.UUID, uri: str, document: Mapping[str, object]) -> None:
    """Note where the finding's page is kept, and the JSON of its report."""
    connection.execute(
        update(findings).where(findings.c.id == finding_id).values(report_uri=uri, report=dict(document))
    )


def load_findings(
    connection: Connection,
    model: str,
    *,
    version: int | None = None,
    subject: str | None = None,
    has_report: bool = False,
    limit: int = 50,
) -> list[Finding]:
    """The model's findings, newest first; with `has_report` those alone whose report was written."""
    statement = select(*_COLUMNS).where(findings.c.model == model).order_by(findings.c.found_at.desc()).limit(limit)
    if version is not None:
        statement = statement.where(findings.c.version == version)
    if subject is not None:
        statement = statement.where(findings.c.subject == subject)
    if has_report:
        statement = statement.where(findings.c.report_uri.is_not(None))
    return [_build(row) for row in connection.execute(statement)]


def find_newest_finding(connection: Connection, model: str, version: int, subject: str) -> Finding | None:
    """The version's newest finding on that subject."""
    return next(iter(load_findings(connection, model, version=version, subject=subject, limit=1)), None)


def find_finding(connection: Connection, finding_id: uuid.UUID) -> Finding | None:
    """The finding with that id, of whichever model."""
    row = connection.execute(select(*_COLUMNS).where(findings.c.id == finding_id)).first()
    return None if row is None else _build(row)


def get_finding(connection: Connection, model: str, finding_id: uuid.UUID) -> Finding:
    """The model's finding with that id; raises FindingNotFound."""
    row = connection.execute(select(*_COLUMNS).where(findings.c.model == model, findings.c.id == finding_id)).first()
    if row is None:
        raise FindingNotFound(model, str(finding_id))
    return _build(row)
