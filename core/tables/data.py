"""What came in, and what was made of it: contracts, sources, rejected rows, pulls, subscribers, snapshots."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.tables.metadata import build_time, metadata

workloads = Table(
    "workloads",
    metadata,
    Column("model", Text, primary_key=True),
    Column("contract", JSONB, nullable=False),
    build_time("written_at", default_now=True),
)

sources = Table(
    "sources",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("kind", Text, nullable=False),  # file, rest, folder, pull, mqtt, sample, outcome
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
    Column("brings", Text, nullable=False, server_default=text("'observations'")),  # or outcomes
    build_time("received_at", default_now=True),
    # When the same bytes were imported anew: what is rejected of them stands under the later source.
    build_time("replayed_at", nullable=True),
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
    build_time("rejected_at", default_now=True),
    Index(None, "model", "rejected_at"),
)

# One try to pull a declared source; `due_at` is none where a person asked for it.
pulls = Table(
    "pulls",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("model", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False),  # queued, running, imported, unchanged, rejected, failed, cancelled
    Column("reason", Text),
    Column("source_id", ForeignKey("sources.id", ondelete="SET NULL")),
    Column("actor", Text, nullable=False, server_default=text("'schedule'")),
    Column("job_id", BigInteger),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("worker", Text),
    # The address itself may hold a secret.
    Column("address_sha256", Text, nullable=False),
    # What the address said of its content, to ask next time only for what is new.
    Column("etag", Text),
    Column("last_modified", Text),
    build_time("due_at", nullable=True),
    build_time("requested_at", default_now=True),
    build_time("started_at", nullable=True),
    build_time("finished_at", nullable=True),
    UniqueConstraint("model", "source", "due_at"),
    Index(None, "model", "source", "requested_at"),
    Index(None, "requested_at"),
)

# What subscribers of a broker last said of themselves.
subscribers = Table(
    "subscribers",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("broker", Text, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("rows_rejected", BigInteger, nullable=False),
    build_time("seen_at", default_now=True),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    build_time("first_at", nullable=True),
    build_time("last_at", nullable=True),
    Column("query", JSONB, nullable=False),
    build_time("created_at", default_now=True),
    # When its file went; the record stays, for the trainings that name it.
    build_time("removed_at", nullable=True),
    Index(None, "model", "created_at"),
)
