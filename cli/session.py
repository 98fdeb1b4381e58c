"""What every command opens: settings, logs, the database and, where it needs MLflow, the tracking server."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from cli.auditing import audited
from cli.command_settings import load_command_settings
from core.connections import Connections, open_connections
from core.local_platform import open_database, open_platform


@contextmanager
def database_session(*, is_reading: bool = False) -> Iterator[Connections]:
    """Connections of a command that needs the database, with the workloads declared; MLflow may be away.

    The command has an entry in the audit log, but where it says that it only reads.
    """
    from jobs.startup import declare_workloads

    settings = load_command_settings()
    with open_database(settings) as url, open_connections(settings, url) as connections:
        declare_workloads(connections)
        with nullcontext() if is_reading else audited(connections.engine):
            yield connections


@contextmanager
def platform_session(*, is_reading: bool = False) -> Iterator[Connections]:
    """Connections of a command that needs the database and MLflow, with the workloads declared; entered likewise."""
    from jobs.startup import declare_workloads

    with stage_session(is_reading=is_reading) as connections:
        declare_workloads(connections)
        yield connections


@contextmanager
def stage_session(*, is_reading: bool = False) -> Iterator[Connections]:
    """Connections of a command that moves stages, which are the database's and MLflow's alone; entered likewise.

    Declaring the workloads loads what reads files, which takes longer than a rollback may.
    """
    with (
        open_platform(load_command_settings()) as connections,
        nullcontext() if is_reading else audited(connections.engine),
    ):
        yield connections
