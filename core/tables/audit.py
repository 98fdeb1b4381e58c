"""Who did what, and what a clean-up removed."""

from sqlalchemy import BigInteger, Column, Identity, Index, Integer, SmallInteger, Table, Text

from core.tables.metadata import build_time, metadata

# Append-only: a trigger (migration 0007) refuses UPDATE, DELETE and TRUNCATE.
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    build_time("happened_at"),
    Column("process", Text, nullable=False),  # control, serving, cli
    Column("action", Text, nullable=False),  # method and route, or the command
    Column("outcome", Text, nullable=False),  # done, refused, failed
    Column("status", SmallInteger),  # of HTTP
    Column("reason", Text),  # kind of the error
    Column("actor", Text),
    Column("role", Text),
    Column("client", Text),
    Column("model", Text),
    Column("target", Text),
    Column("request_id", Text),  # of the first, where `times` is more than one
    Column("times", Integer, nullable=False),
    build_time("stored_at", default_now=True),
    Index(None, "happened_at"),
    Index(None, "actor", "id"),
    Index(None, "model", "id"),
)

# What a clean-up removed, and why.
removals = Table(
    "removals",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),  # version, run, snapshot, report, source, log, journal
    Column("model", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("bytes", BigInteger),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    build_time("removed_at", default_now=True),
    Index(None, "removed_at"),
)
