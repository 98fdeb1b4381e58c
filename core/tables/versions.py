"""Versions: their names, what their evaluation promises, the gate's verdicts, the changes of stage, and what serves."""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from core.tables.metadata import build_time, metadata

version_names = Table(
    "version_names",
    metadata,
    Column("model", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("training_id", ForeignKey("trainings.id"), nullable=False, unique=True),
    # The registry's number, once there is a version.
    Column("version", Integer),
    build_time("reserved_at", default_now=True),
    UniqueConstraint("model", "version"),
)

# What a version's own evaluation promises of its predictions, in the gate's metric.
evaluations = Table(
    "evaluations",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("metric", Text, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("error", Double, nullable=False),
    Column("lower", Double),
    Column("upper", Double),
    Column("baseline_name", Text, nullable=False),
    Column("baseline_error", Double),
    # The means of the training part's targets, which the baseline of a table predicts.
    Column("target_means", ARRAY(Double)),
    Column("contract", JSONB, nullable=False),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("champion_version", Integer),
    Column("training_id", ForeignKey("trainings.id")),
    Column("outcome", Text, nullable=False),  # promote, keep, insufficient_evidence, refuse
    Column("reason", Text, nullable=False),
    # A list of {name, passed, value, threshold, reason}, in the order in which the gate looked.
    Column("checks", JSONB, nullable=False),
    # The role that has to approve before the version takes Production; null where the gate decides alone.
    Column("approver", Text),
    build_time("decided_at", default_now=True),
    Index(None, "model", "decided_at"),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("from_stage", Text, nullable=False),
    Column("to_stage", Text, nullable=False),
    Column("previous_version", Integer),
    Column("state", Text, nullable=False),  # intended, finished, undone
    Column("origin", Text, nullable=False),  # platform, external
    Column("actor", Text, nullable=False),
    # gate, hand, override, rollback, approval, rejection, superseded, external
    Column("cause", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("verdict_id", ForeignKey("verdicts.id")),
    # What the platform rolled back on.
    Column("finding_id", ForeignKey("findings.id")),
    build_time("intended_at", default_now=True),
    build_time("finished_at", nullable=True),
    Index(None, "model", "intended_at"),
    Index("ix_transitions_open", "model", postgresql_where=text("state = 'intended'")),
)

serving_targets = Table(
    "serving_targets",
    metadata,
    Column("model", Text, primary_key=True),
    Column("target", Text, nullable=False),  # Production, latest, or a version's number
    Column("set_by", Text, nullable=False),
    build_time("set_at", default_now=True),
)

# Every target that was set, in the order of its number; the last one of a model stands in `serving_targets`.
target_changes = Table(
    "target_changes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("model", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("set_by", Text, nullable=False),
    build_time("set_at", default_now=True),
    Index(None, "model", "id"),
)
