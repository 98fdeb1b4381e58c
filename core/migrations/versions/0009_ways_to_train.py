"""Ways to start a training: the upload that a training came with, and the due times of schedules."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE trainings ADD COLUMN source_id UUID,
            ADD CONSTRAINT fk_trainings_source_id_sources FOREIGN KEY(source_id)
                REFERENCES sources (id) ON DELETE SET NULL;
        CREATE TABLE due_trainings (
            model TEXT NOT NULL,
            schedule TEXT NOT NULL,
            due_at TIMESTAMP WITH TIME ZONE NOT NULL,
            training_id UUID,
            noted_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_due_trainings PRIMARY KEY (model, schedule, due_at),
            CONSTRAINT fk_due_trainings_training_id_trainings FOREIGN KEY(training_id) REFERENCES trainings (id)
        );
    """)
