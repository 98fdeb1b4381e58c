"""Pulls: one row for each try to fetch a declared source."""

from alembic import op

revision = "0003"
down_revision = "0002"

_TABLES = """
CREATE TABLE pulls (
    id UUID NOT NULL,
    model TEXT NOT NULL,
    source TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    source_id UUID,
    address_sha256 TEXT NOT NULL,
    etag TEXT,
    last_modified TEXT,
    due_at TIMESTAMP WITH TIME ZONE,
    requested_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_pulls PRIMARY KEY (id),
    CONSTRAINT uq_pulls_model_source_due_at UNIQUE (model, source, due_at),
    CONSTRAINT fk_pulls_source_id FOREIGN KEY(source_id) REFERENCES sources (id) ON DELETE SET NULL
);
CREATE INDEX ix_pulls_model_source_requested_at ON pulls (model, source, requested_at);
"""


def upgrade() -> None:
    op.execute(_TABLES)
