"""How each model is doing, in numbers: what dashboards and alert rules look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, Table, func, select
from sqlalchemy.dialects.postgresql import distinct_on

from core.tables.data import sources, workloads
from core.tables.monitoring import alerts, findings
from core.tables.predictions import request_counts
from core.tables.trainings import trainings
from core.tables.versions import transitions


@dataclass(frozen=True)
class SubjectState:
    """The last finding of one subject, as in `drift`."""

    statistic: float | None
    threshold: float | None
    rows: int
    outcome: str
    found_at: datetime


@dataclass(frozen=True)
class ModelState:
    """One declared model. Times are UTC; None where there was none."""

    subjects: Mapping[str, SubjectState] = field(default_factory=dict)
    open_alerts: Mapping[str, int] = field(default_factory=dict)
    """By severity."""
    rows_received_at: datetime | None = None
    predictions: int = 0
    refusals: int = 0
    trainings: Mapping[str, int] = field(default_factory=dict)
    """By state."""
    trained_at: datetime | None = None
    promoted_at: datetime | None = None


def load_model_states(connection: Connection) -> dict[str, ModelState]:
    """The state of every declared model. Reads the keys of all findings and hourly counts once."""
    models = list(connection.scalars(select(workloads.c.model).order_by(workloads.c.model)))
    subjects: dict[str, dict[str, SubjectState]] = {model: {} for model in models}
    newest = (
        select(
            findings.c.model,
            findings.c.subject,
            findings.c.statistic,
            findings.c.threshold,
            findings.c.rows,
            findings.c.outcome,
            findings.c.found_at,
        )
        .ext(distinct_on(findings.c.model, findings.c.subject))
        .order_by(findings.c.model, findings.c.subject, findings.c.found_at.desc())
    )
    for row in connection.execute(newest):
        if row.model in subjects:
            subjects[row.model][row.subject] = SubjectState(
                row.statistic, row.threshold, row.rows, row.outcome, row.found_at
            )
    model, severity = alerts.c.model, alerts.c.severity
    opened = select(model, severity, func.count()).where(alerts.c.cleared_at.is_(None)).group_by(model, severity)
    open_alerts = _count_by(connection, opened)
    model, state = trainings.c.model, trainings.c.state
    counted = _count_by(connection, select(model, state, func.count()).group_by(model, state))
    served = {
        row.model: (int(row.predictions), int(row.refusals))
        for row in connection.execute(
            select(
                request_counts.c.model,
                func.sum(request_counts.c.predictions).label("predictions"),
                func.sum(request_counts.c.refusals).label("refusals"),
            ).group_by(request_counts.c.model)
        )
    }
    received = _load_latest(connection, sources, sources.c.received_at, "imported")
    trained = _load_latest(connection, trainings, trainings.c.finished_at, "finished")
    promoted = _load_latest(connection, transitions, transitions.c.finished_at, "finished")
    return {
        model: ModelState(
            subjects=subjects[model],
            open_alerts=open_alerts.get(model, {}),
            rows_received_at=received.get(model),
            predictions=served.get(model, (0, 0))[0],
            refusals=served.get(model, (0, 0))[1],
            trainings=counted.get(model, {}),
            trained_at=trained.get(model),
            promoted_at=promoted.get(model),
        )
        for model in models
    }


def _count_by(connection: Connection, statement: Select[str, str, int]) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = {}
    for model, name, count in connection.execute(statement):
        counted.setdefault(model, {})[name] = count
    return counted


def _load_latest(
    connection: Connection, table: Table, column: ColumnElement[datetime], state: str
) -> dict[str, datetime]:
    """By model the latest time in a column, of rows in that state."""
    statement = select(table.c.model, func.max(column)).where(table.c.state == state).group_by(table.c.model)
    return {model: at for model, at in connection.execute(statement) if at is not None}
