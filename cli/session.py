"""What every command opens: settings, logs, the database and, where it needs MLflow, the tracking server."""

from collections.abc import Iterator
from contextlib import contextmanager

from core.connections import Connections, open_connections
from core.local_platform import open_database, open_platform
from core.logs import configure_logs
from core.settings import Settings, load_settings
from jobs.startup import declare_workloads


def load_command_settings() -> Settings:
    """Settings of a command at a terminal: its logs are plain text, and warnings only unless asked for more."""
    settings = load_settings()
    quiet = {"log_format": "text", "log_level": "WARNING"}
    given = settings.model_fields_set
    configure_logs(settings.model_copy(update={k: v for k, v in quiet.items() if k not in given}), "millrace")
    return settings


@contextmanager
def database_session() -> Iterator[Connections]:
    """Connections of a command that needs the database; MLflow may be away."""
    settings = load_command_settings()
    with open_database(settings) as url, open_connections(settings, url) as connections:
        declare_workloads(connections)
        yield connections


@contextmanager
def platform_session() -> Iterator[Connections]:
    """Connections of a command that needs the database and MLflow."""
    settings = load_command_settings()
    with open_platform(settings) as connections:
        declare_workloads(connections)
        yield connections
