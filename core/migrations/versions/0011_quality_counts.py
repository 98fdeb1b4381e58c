"""Counts of faulty values, sums of served values, and copies of references."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE feature_sums (
            model TEXT NOT NULL,
            version INTEGER NOT NULL,
            hour TIMESTAMP WITH TIME ZONE NOT NULL,
            feature TEXT NOT NULL,
            values BIGINT NOT NULL,
            sum DOUBLE PRECISION NOT NULL,
            squares DOUBLE PRECISION NOT NULL,
            CONSTRAINT pk_feature_sums PRIMARY KEY (model, version, hour, feature)
        );
        CREATE TABLE quality_counts (
            model TEXT NOT NULL,
            version INTEGER NOT NULL,
            hour TIMESTAMP WITH TIME ZONE NOT NULL,
            "column" TEXT NOT NULL,
            kind TEXT NOT NULL,
            count BIGINT NOT NULL,
            CONSTRAINT pk_quality_counts PRIMARY KEY (model, version, hour, "column", kind)
        );
        CREATE TABLE version_references (
            model TEXT NOT NULL,
            version INTEGER NOT NULL,
            document JSONB NOT NULL,
            CONSTRAINT pk_version_references PRIMARY KEY (model, version)
        )
    """)
