"""Users, tokens, sign-ins, and the one row that says what processes must learn of."""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from core.tables.metadata import build_time, metadata

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("is_disabled", Boolean, nullable=False),
    build_time("created_at", default_now=True),
    Column("created_by", Text, nullable=False),
    build_time("signed_in_at", nullable=True),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    build_time("created_at", default_now=True),
    Column("created_by", Text, nullable=False),
    build_time("expires_at", nullable=True),
    build_time("last_used_at", nullable=True),
    build_time("revoked_at", nullable=True),
    Index("uq_api_tokens_valid_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
)

# One sign-in, with a browser's cookie or with a family of refresh tokens.
sign_in_sessions = Table(
    "sign_in_sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_name", ForeignKey("users.name"), nullable=False, index=True),
    build_time("created_at", default_now=True),
    build_time("expires_at"),
    Column("ended_at", TIMESTAMP(timezone=True), index=True),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("session_id", ForeignKey("sign_in_sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    build_time("issued_at", default_now=True),
    # Not null: it was exchanged for the next one, and is not to come again.
    build_time("used_at", nullable=True),
)

# Tries to sign in for one account, or from one address, since a time; `key` is a hash of either.
sign_in_attempts = Table(
    "sign_in_attempts",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("since_at", TIMESTAMP(timezone=True), nullable=False, index=True),
)

one_time_links = Table(
    "one_time_links",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    build_time("expires_at"),
)

# One row: the number of the last change that processes must learn of, and the key that signs what is issued.
account_state = Table(
    "account_state",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("change", BigInteger, nullable=False),
    Column("signing_key", LargeBinary),
)
