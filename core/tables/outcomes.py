"""The true values that arrive later, and the predictions that they belong to."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from core.tables.metadata import build_time, metadata

# Every outcome that was received; one that a later one corrects stays, with the time of that.
outcomes = Table(
    "outcomes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("model", Text, nullable=False),
    # Either the prediction's id and the step ahead, from 1, or the workload's key.
    Column("prediction_id", Uuid),
    Column("step", SmallInteger, nullable=False, server_default=text("1")),
    Column("entity", Text),
    build_time("time", nullable=True),
    # In the target's unit; of a classifier the place of the class, from 0.
    Column("value", Double, nullable=False),
    Column("source_id", ForeignKey("sources.id"), nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("is_joined", Boolean, nullable=False, server_default=text("false")),
    build_time("received_at", default_now=True),
    build_time("replaced_at", nullable=True),
    Index(
        "uq_outcomes_prediction",
        "model",
        "prediction_id",
        "step",
        unique=True,
        postgresql_where=text("prediction_id IS NOT NULL AND replaced_at IS NULL"),
    ),
    Index(
        "uq_outcomes_key",
        "model",
        "entity",
        "time",
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=text("prediction_id IS NULL AND replaced_at IS NULL"),
    ),
    Index("ix_outcomes_waiting", "model", postgresql_where=text("NOT is_joined AND replaced_at IS NULL")),
    Index("ix_outcomes_corrected", "model", postgresql_where=text("replaced_at IS NOT NULL")),
)

# A step of a prediction with its outcome: one row each, whichever of the two came second.
joined_outcomes = Table(
    "joined_outcomes",
    metadata,
    Column("prediction_id", Uuid, primary_key=True),
    Column("step", SmallInteger, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    build_time("predicted_at"),
    # The time that the outcome is of; that of the prediction where nothing else is known.
    build_time("outcome_at"),
    # Of a classifier the probability of the class that came, and the squared distance of all of them.
    Column("predicted", Double, nullable=False),
    Column("value", Double, nullable=False),
    Column("squared", Double, nullable=False),
    # What persistence would have said; only of a series.
    Column("baseline", Double),
    Column("is_to_complete", Boolean, nullable=False),
    build_time("joined_at", default_now=True),
    Index(None, "model", "version", "outcome_at"),
    Index("ix_joined_outcomes_to_complete", "model", postgresql_where=text("is_to_complete")),
)
