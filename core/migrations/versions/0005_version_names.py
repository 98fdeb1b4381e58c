"""Names of versions."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE version_names (
            model TEXT NOT NULL,
            name TEXT NOT NULL,
            training_id UUID NOT NULL,
            version INTEGER,
            reserved_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_version_names PRIMARY KEY (model, name),
            CONSTRAINT uq_version_names_training_id UNIQUE (training_id),
            CONSTRAINT uq_version_names_model_version UNIQUE (model, version),
            CONSTRAINT fk_version_names_training_id_trainings FOREIGN KEY(training_id) REFERENCES trainings (id)
        )
    """)
