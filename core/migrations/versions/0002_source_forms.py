"""What form a source has, how it is read, and whether what it had rejected was replayed.

Raw bytes are compressed before they come.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Every source so far was a CSV file."""
    op.execute(
        "ALTER TABLE sources ADD COLUMN form TEXT NOT NULL DEFAULT 'csv',"
        " ADD COLUMN encoding TEXT, ADD COLUMN sheet TEXT, ADD COLUMN replayed_at TIMESTAMP WITH TIME ZONE"
    )
    op.execute("ALTER TABLE sources ALTER COLUMN form DROP DEFAULT")
    op.execute("CREATE INDEX ix_sources_model_sha256 ON sources (model, sha256)")
    op.execute("ALTER TABLE source_pieces ALTER COLUMN content SET STORAGE EXTERNAL")
