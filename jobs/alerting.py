"""Messages of alerts as a job."""

from datetime import UTC, datetime

from core.connections import Connections
from monitoring.alerting import deliver_due
from workloads.catalogue import load_catalogue

ALERT_CRON = "* * * * * */10"
"""Every ten seconds (of six fields, Procrastinate's cron has the seconds last)."""


def deliver_alerts(connections: Connections, now: datetime | None = None) -> int:
    """Send the messages that are due, as each workload's policy says; returns how many were delivered."""
    policies = {name: workload.alerts for name, workload in load_catalogue().items()}
    return deliver_due(connections, policies, now or datetime.now(UTC))
