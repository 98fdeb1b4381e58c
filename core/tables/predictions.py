"""What was served, row by row and counted by the hour."""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from core.tables.metadata import build_time, metadata

predictions = Table(
    "predictions",
    metadata,
    Column("at", TIMESTAMP(timezone=True), primary_key=True),
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    # Whether it was not answered: refused, or failed where `is_failure` says that the version was at fault.
    Column("is_refusal", Boolean, nullable=False),
    Column("is_failure", Boolean, nullable=False, server_default=text("false")),
    Column("request_id", Text, nullable=False),
    # The row of the model's input as `(steps * features)`, monitored features and outputs; empty for a refusal.
    Column("inputs", ARRAY(Double), nullable=False),
    Column("monitored", ARRAY(Double), nullable=False),
    Column("outputs", ARRAY(Double), nullable=False),
    Column("reason", Text),
    # The key that the prediction is about, where the request says so: entity or id ('' for the only series), and the
    # first time that is predicted.
    Column("entity", Text),
    build_time("time", nullable=True),
    Index("ix_predictions_model_at", "model", "at"),
    Index("ix_predictions_id_model", "id", "model", postgresql_where=text("NOT is_refusal")),
    Index("ix_predictions_model_time_entity", "model", "time", "entity", postgresql_where=text("entity IS NOT NULL")),
    postgresql_partition_by="RANGE (at)",
)

feature_counts = Table(
    "feature_counts",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("hour", TIMESTAMP(timezone=True), primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("bin", SmallInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

# Of the finite values of a number, around its mean in training and in its standard deviations.
feature_sums = Table(
    "feature_sums",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("hour", TIMESTAMP(timezone=True), primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("values", BigInteger, nullable=False),
    Column("sum", Double, nullable=False),
    Column("squares", Double, nullable=False),
)

# Refused requests by column and kind of fault (absent, type, bounds, category, not_finite; form, of no column), and
# answered rows without a value that the model fills (imputed) or with a category that it does not know (unknown).
quality_counts = Table(
    "quality_counts",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("hour", TIMESTAMP(timezone=True), primary_key=True),
    Column("column", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

request_counts = Table(
    "request_counts",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("hour", TIMESTAMP(timezone=True), primary_key=True),
    Column("predictions", BigInteger, nullable=False),
    Column("refusals", BigInteger, nullable=False),
    # Requests, whatever their number of rows: answered, and failed for reasons of the version.
    Column("answers", BigInteger, nullable=False, server_default=text("0")),
    Column("failures", BigInteger, nullable=False, server_default=text("0")),
)
