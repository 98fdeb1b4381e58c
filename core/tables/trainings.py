"""Trainings, the schedules that ask for them, and what jobs print."""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.tables.metadata import build_time, metadata

trainings = Table(
    "trainings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),  # queued, running, finished, failed, cancelled
    Column("cause", Text, nullable=False),  # hand, startup, finding, schedule, upload, project
    Column("actor", Text, nullable=False),
    Column("parameters", JSONB, nullable=False, server_default=text("'{}'")),
    Column("finding_id", Uuid),
    # The upload that asked for it.
    Column("source_id", ForeignKey("sources.id", ondelete="SET NULL")),
    Column("snapshot_digest", ForeignKey("snapshots.digest")),
    # The failed or cancelled training whose snapshot and parameters this one has.
    Column("repeats_id", ForeignKey("trainings.id")),
    Column("job_id", BigInteger),
    # Who carries it out, or did last: host and process.
    Column("worker", Text),
    # The fencing number: only the attempt that holds the current one may register, gate or move a stage.
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("step", Text, nullable=False, server_default=text("'queued'")),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("run_id", Text),
    Column("version", Integer),
    Column("verdict_id", Uuid),
    Column("error", Text),
    build_time("requested_at", default_now=True),
    build_time("started_at", nullable=True),
    build_time("finished_at", nullable=True),
    # When it was seen that an ended training left nothing half done in MLflow.
    build_time("settled_at", nullable=True),
    Index(None, "model", "requested_at"),
    Index(None, "requested_at"),
    Index("ix_trainings_unsettled", "finished_at", postgresql_where=text("settled_at IS NULL")),
    Index(
        "uq_trainings_model_open",
        "model",
        unique=True,
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
)

# The due times of schedules, each dealt with once. Without a training: the time at which the schedule was first seen,
# or one at which there was nothing to train on.
due_trainings = Table(
    "due_trainings",
    metadata,
    Column("model", Text, primary_key=True),
    Column("schedule", Text, primary_key=True),
    Column("due_at", TIMESTAMP(timezone=True), primary_key=True),
    Column("training_id", ForeignKey("trainings.id")),
    build_time("noted_at", default_now=True),
)

# What jobs print, the last lines of each: reached from every machine, while the log files are the worker's own.
job_lines = Table(
    "job_lines",
    metadata,
    Column("number", BigInteger, Identity(), primary_key=True),
    # Of a training, a check or a pull.
    Column("job_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    build_time("written_at", default_now=True),
    Column("text", Text, nullable=False),
    Index(None, "job_id", "number"),
)
