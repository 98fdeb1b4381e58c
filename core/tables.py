"""The platform's tables (SQLAlchemy Core). Typed observation tables are made from contracts by `ingestion.store`.

Times are UTC. `model` is always the workload's name; `version` the registry's number.
"""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


def _time(name: str, *, nullable: bool = False, default_now: bool = False) -> Column[object]:
    return Column(
        name,
        TIMESTAMP(timezone=True),
        nullable=nullable,
        server_default=text("now()") if default_now else None,
    )


workloads = Table(
    "workloads",
    metadata,
    Column("model", Text, primary_key=True),
    Column("contract", JSONB, nullable=False),
    _time("written_at", default_now=True),
)

# --- data in -----------------------------------------------------------------------------------------------------

sources = Table(
    "sources",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("kind", Text, nullable=False),  # file, rest, folder, pull, mqtt, sample
    Column("form", Text, nullable=False),  # csv, xlsx, parquet, json; rows: batches, kept as one JSON document a line
    Column("encoding", Text),  # as the sender said it; null for UTF-8, and for UTF-16 by its mark
    Column("sheet", Text),  # of a workbook; null for the first
    Column("name", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # imported, rejected, replaced (sample data that made way)
    Column("rows_new", BigInteger, nullable=False),
    Column("rows_changed", BigInteger, nullable=False),
    Column("rows_rejected", BigInteger, nullable=False),
    _time("received_at", default_now=True),
    # When the same bytes were imported anew: what is rejected of them stands under the later source.
    _time("replayed_at", nullable=True),
    Index(None, "model", "received_at"),
    Index(None, "model", "sha256"),
)

# Raw input as it came, compressed, in pieces: kept in the database so that it is stored in the transaction that
# stores its rows, and reached from every machine.
source_pieces = Table(
    "source_pieces",
    metadata,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True),
    Column("piece", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

rejected_rows = Table(
    "rejected_rows",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("model", Text, nullable=False),
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("line", BigInteger),
    Column("column", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("rule", Text, nullable=False),
    _time("rejected_at", default_now=True),
    Index(None, "model", "rejected_at"),
)

# One try to pull a declared source; `due_at` is none where a person asked for it.
pulls = Table(
    "pulls",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False),  # queued, running, imported, unchanged, rejected, failed
    Column("reason", Text),
    Column("source_id", ForeignKey("sources.id", ondelete="SET NULL")),
    # The address itself may hold a secret.
    Column("address_sha256", Text, nullable=False),
    # What the address said of its content, to ask next time only for what is new.
    Column("etag", Text),
    Column("last_modified", Text),
    _time("due_at", nullable=True),
    _time("requested_at", default_now=True),
    _time("finished_at", nullable=True),
    UniqueConstraint("model", "source", "due_at"),
    Index(None, "model", "source", "requested_at"),
)

# What subscribers of a broker last said of themselves.
subscribers = Table(
    "subscribers",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("broker", Text, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("rows_rejected", BigInteger, nullable=False),
    _time("seen_at", default_now=True),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    _time("first_at", nullable=True),
    _time("last_at", nullable=True),
    Column("query", JSONB, nullable=False),
    _time("created_at", default_now=True),
    Index(None, "model", "created_at"),
)

# --- trainings, verdicts, transitions ----------------------------------------------------------------------------

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
    Column("snapshot_digest", ForeignKey("snapshots.digest")),
    Column("job_id", BigInteger),
    # The fencing number: only the attempt that holds the current one may register, gate or move a stage.
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("step", Text, nullable=False, server_default=text("'queued'")),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("run_id", Text),
    Column("version", Integer),
    Column("verdict_id", Uuid),
    Column("error", Text),
    _time("requested_at", default_now=True),
    _time("started_at", nullable=True),
    _time("finished_at", nullable=True),
    Index(None, "model", "requested_at"),
    Index(
        "uq_trainings_model_open",
        "model",
        unique=True,
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
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
    _time("decided_at", default_now=True),
    Index(None, "model", "decided_at"),
)

version_names = Table(
    "version_names",
    metadata,
    Column("model", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("training_id", ForeignKey("trainings.id"), nullable=False, unique=True),
    # The registry's number, once there is a version.
    Column("version", Integer),
    _time("reserved_at", default_now=True),
    UniqueConstraint("model", "version"),
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
    Column("cause", Text, nullable=False),  # gate, hand, override, rollback, external
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("verdict_id", ForeignKey("verdicts.id")),
    _time("intended_at", default_now=True),
    _time("finished_at", nullable=True),
    Index(None, "model", "intended_at"),
    Index("ix_transitions_open", "model", postgresql_where=text("state = 'intended'")),
)

serving_targets = Table(
    "serving_targets",
    metadata,
    Column("model", Text, primary_key=True),
    Column("target", Text, nullable=False),  # Production, latest, or a version's number
    Column("set_by", Text, nullable=False),
    _time("set_at", default_now=True),
)

# --- what was served ---------------------------------------------------------------------------------------------

predictions = Table(
    "predictions",
    metadata,
    Column("at", TIMESTAMP(timezone=True), primary_key=True),
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("is_refusal", Boolean, nullable=False),
    Column("request_id", Text, nullable=False),
    # The row of the model's input as `(steps * features)`, monitored features and outputs; empty for a refusal.
    Column("inputs", ARRAY(Double), nullable=False),
    Column("monitored", ARRAY(Double), nullable=False),
    Column("outputs", ARRAY(Double), nullable=False),
    Column("reason", Text),
    Index("ix_predictions_model_at", "model", "at"),
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

request_counts = Table(
    "request_counts",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("hour", TIMESTAMP(timezone=True), primary_key=True),
    Column("predictions", BigInteger, nullable=False),
    Column("refusals", BigInteger, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("model", Text, nullable=False),
    Column("prediction_id", Uuid),
    Column("entity", Text),
    _time("time", nullable=True),
    Column("value", Double, nullable=False),
    _time("received_at", default_now=True),
    Column("actor", Text, nullable=False),
    UniqueConstraint("model", "prediction_id"),
)

# --- monitoring --------------------------------------------------------------------------------------------------

findings = Table(
    "findings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("subject", Text, nullable=False),  # drift
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
    _time("window_from_at", nullable=True),
    _time("window_to_at", nullable=True),
    _time("found_at", default_now=True),
    Index(None, "model", "found_at"),
)
