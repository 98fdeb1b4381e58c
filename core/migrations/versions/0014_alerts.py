"""Alerts and their messages."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE alerts (
            id UUID NOT NULL,
            model TEXT NOT NULL,
            cause TEXT NOT NULL,
            severity TEXT NOT NULL,
            title TEXT NOT NULL,
            reasons TEXT[] NOT NULL,
            finding_id UUID,
            times BIGINT DEFAULT 1 NOT NULL,
            raised_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            cleared_at TIMESTAMP WITH TIME ZONE,
            cleared_reason TEXT,
            CONSTRAINT pk_alerts PRIMARY KEY (id),
            CONSTRAINT fk_alerts_finding_id_findings FOREIGN KEY(finding_id) REFERENCES findings (id) ON DELETE SET NULL
        )
    """)
    op.execute("CREATE INDEX ix_alerts_model_raised_at ON alerts (model, raised_at)")
    op.execute("CREATE UNIQUE INDEX uq_alerts_model_cause_open ON alerts (model, cause) WHERE cleared_at IS NULL")
    op.execute("""
        CREATE TABLE alert_messages (
            id UUID NOT NULL,
            alert_id UUID NOT NULL,
            channel TEXT NOT NULL,
            occasion TEXT NOT NULL,
            state TEXT DEFAULT 'waiting' NOT NULL,
            attempts INTEGER DEFAULT 0 NOT NULL,
            due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            error TEXT,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            delivered_at TIMESTAMP WITH TIME ZONE,
            CONSTRAINT pk_alert_messages PRIMARY KEY (id),
            CONSTRAINT fk_alert_messages_alert_id_alerts
                FOREIGN KEY(alert_id) REFERENCES alerts (id) ON DELETE CASCADE
        )
    """)
    op.execute("CREATE INDEX ix_alert_messages_alert_id ON alert_messages (alert_id)")
    op.execute("CREATE INDEX ix_alert_messages_due ON alert_messages (due_at) WHERE state = 'waiting'")
