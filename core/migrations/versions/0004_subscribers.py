"""Subscribers of a broker: what each last said of itself."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE subscribers (
    client_id TEXT NOT NULL,
    broker TEXT NOT NULL,
    messages BIGINT NOT NULL,
    rows_rejected BIGINT NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_subscribers PRIMARY KEY (client_id)
);
"""


def upgrade() -> None:
    op.execute(_TABLES)
