"""Checks of what is served, what they found, and whom it was told."""

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Index, Integer, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from core.tables.metadata import build_time, metadata

checks = Table(
    "checks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),  # queued, running, finished, failed, cancelled
    Column("actor", Text, nullable=False),
    Column("job_id", BigInteger),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("worker", Text),
    Column("finding_id", Uuid),
    Column("error", Text),
    build_time("requested_at", default_now=True),
    build_time("started_at", nullable=True),
    build_time("finished_at", nullable=True),
    Index(None, "model", "requested_at"),
    Index(None, "requested_at"),
)

# A copy of a version's `reference.json`, which never changes: a round over a thousand models asks MLflow for none.
version_references = Table(
    "version_references",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("document", JSONB, nullable=False),
)

findings = Table(
    "findings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("subject", Text, nullable=False),  # drift, performance, probation, check
    Column("outcome", Text, nullable=False),  # fine, alert, data_incident, retrain
    Column("is_drifted", Boolean, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("statistic", Double),
    Column("threshold", Double),
    Column("rows", BigInteger, nullable=False),
    # Per feature: statistic, threshold, effect; and Evidently's own JSON of the report.
    Column("measure", JSONB, nullable=False),
    Column("report", JSONB),
    Column("report_uri", Text),
    Column("training_id", ForeignKey("trainings.id")),
    build_time("window_from_at", nullable=True),
    build_time("window_to_at", nullable=True),
    build_time("found_at", default_now=True),
    Index(None, "model", "found_at"),
)

# What people are told of: one open alert a model and cause.
alerts = Table(
    "alerts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("cause", Text, nullable=False),  # a finding's subject, training, version
    Column("severity", Text, nullable=False),  # info, warning, critical
    Column("title", Text, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("finding_id", ForeignKey("findings.id", ondelete="SET NULL")),
    Column("times", BigInteger, nullable=False, server_default=text("1")),
    build_time("raised_at", default_now=True),
    build_time("cleared_at", nullable=True),
    Column("cleared_reason", Text),
    Index(None, "model", "raised_at"),
    Index(
        "uq_alerts_model_cause_open",
        "model",
        "cause",
        unique=True,
        postgresql_where=text("cleared_at IS NULL"),
    ),
)

alert_messages = Table(
    "alert_messages",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("alert_id", ForeignKey("alerts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("channel", Text, nullable=False),  # mail, webhook, slack
    Column("occasion", Text, nullable=False),  # raised, cleared
    Column("state", Text, nullable=False, server_default=text("'waiting'")),  # waiting, delivered, unwanted
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    build_time("due_at", default_now=True),
    Column("error", Text),
    build_time("created_at", default_now=True),
    build_time("delivered_at", nullable=True),
    Index("ix_alert_messages_due", "due_at", postgresql_where=text("state = 'waiting'")),
)
