"""The database: addresses, engine, migrations, partitions, advisory locks and notifications.

PostgreSQL is the one engine in development, tests and production. Addresses are SQLAlchemy's form with psycopg 3.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from typing import Literal as OneOf
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from core.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

PartitionInterval = OneOf["month", "year"]

TRANSITIONS_CHANNEL = "millrace_transitions"
"""Notified with the model's name when a transition is finished or a serving target is set."""

_POOL_SIZE = 5
_MIGRATION_LOCK = 7243001
_TRACKING_DATABASE = "mlflow"


def create_database_engine(url: str, *, pool_size: int = _POOL_SIZE) -> Engine:
    """An engine on the database at `url` (`postgresql://` or `postgresql+psycopg://`); it connects when first used."""
    return create_engine(
        normalise_url(url),
        pool_size=pool_size,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 5, "application_name": "millrace"},
    )


def normalise_url(url: str) -> str:
    """The address with the driver that Millrace uses."""
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def build_tracking_store_url(url: str, database: str | None = _TRACKING_DATABASE) -> str:
    """MLflow's backend store: database `mlflow` on the same server, through psycopg2; the address's own one if None.

    With psycopg 3 MLflow's archiving transition fails on an integer compared with text (MLflow 3.17, SQLAlchemy 2.1).
    """
    parsed = make_url(url).set(drivername="postgresql+psycopg2", database=database)
    return parsed.render_as_string(hide_password=False)


def build_libpq_url(url: str) -> str:
    """The address as libpq, psycopg and Procrastinate take it: without a driver's name."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def hide_password(url: str) -> str:
    """The address as a log or an error may show it."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def check_database(url: str) -> None:
    """Raise DatabaseUnavailable unless the database answers."""
    try:
        with psycopg.connect(build_libpq_url(url), connect_timeout=5) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(hide_password(url), str(error).strip().splitlines()[0]) from error


def migrate_database(url: str) -> None:
    """Bring the schema of the database at `url` up to date; safe to run from several processes at once.

    Creates the tracking server's database too where it is missing and the role may create one.
    """
    # A second of import, which would stand before every command and every start.
    from alembic import command
    from alembic.config import Config

    create_tracking_database(url)
    engine = create_database_engine(url, pool_size=1)
    try:
        with as_file(files("core") / "migrations") as folder, engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(folder))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
    except OperationalError as error:
        raise DatabaseUnavailable(hide_password(url), str(error.orig)) from error
    finally:
        engine.dispose()


def create_tracking_database(url: str) -> None:
    """Create the database of the tracking server's store beside the platform's, where it is missing and may be made."""
    try:
        with psycopg.connect(build_libpq_url(url), autocommit=True, connect_timeout=5) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_TRACKING_DATABASE]).fetchone()
            if known is None:
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(_TRACKING_DATABASE)))
    except psycopg.errors.DuplicateDatabase:
        logger.info("another process created the tracking database")
    except psycopg.errors.InsufficientPrivilege:
        logger.warning(
            "this role may not create database %s; create it, or set MLFLOW_DATABASE_URL", _TRACKING_DATABASE
        )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(hide_password(url), str(error).strip().splitlines()[0]) from error


def lock_model(connection: Connection, model: str) -> None:
    """Hold the model's advisory lock until the transaction ends: one writer of a model's stages at a time."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"model:{model}"})


def try_lock_model(connection: Connection, model: str) -> bool:
    """Take the model's lock as `lock_model` does, unless another transaction holds it; whether it was taken."""
    statement = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
    return bool(connection.scalar(statement, {"name": f"model:{model}"}))


def notify(connection: Connection, channel: str, payload: str) -> None:
    """Notify listeners when the transaction commits."""
    connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})


@contextmanager
def listening(url: str, *channels: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection that listens on `channels`; iterate over its `notifies()`."""
    with psycopg.connect(build_libpq_url(url), autocommit=True, connect_timeout=5) as connection:
        for channel in channels:
            connection.execute(SQL("LISTEN {}").format(Identifier(channel)))
        yield connection


def create_partitions(
    connection: Connection, table: str, first_at: datetime, last_at: datetime, interval: PartitionInterval
) -> None:
    """Create the partitions of `table`, a month or a year each, that cover `first_at` to `last_at`.

    Names are `<table>_yYYYY` or `<table>_yYYYYmMM`. Concurrent callers are serialised by an advisory lock; readers do
    not wait.
    """
    raw = _get_raw_connection(connection)
    periods = {_partition_name(table, start, interval): start for start in _starts(first_at, last_at, interval)}
    if periods.keys() <= _load_partitions(raw, table):
        return
    raw.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", [table])
    known = _load_partitions(raw, table)
    for name, start in periods.items():
        if name not in known:
            # CREATE TABLE ... PARTITION OF would keep readers of the whole table out until this transaction ends.
            raw.execute(SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(Identifier(name), Identifier(table)))
            raw.execute(
                SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                    Identifier(table), Identifier(name), Literal(start), Literal(_next_start(start, interval))
                )
            )


def drop_partitions(connection: Connection, table: str, before_at: datetime, interval: PartitionInterval) -> list[str]:
    """Drop the partitions of `table` that end at or before `before_at`, as `create_partitions` has named them.

    Returns their names. Readers and writers of the table wait until the transaction ends.
    """
    raw = _get_raw_connection(connection)
    expired = []
    for name in sorted(_load_partitions(raw, table)):
        start = _parse_partition_name(table, name, interval)
        if start is not None and _next_start(start, interval) <= before_at:
            raw.execute(SQL("DROP TABLE {}").format(Identifier(name)))
            expired.append(name)
    return expired


def _get_raw_connection(connection: Connection) -> psycopg.Connection[tuple[object, ...]]:
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError(f"a psycopg connection is needed, not {type(raw).__name__}")
    return raw


def _load_partitions(raw: psycopg.Connection[tuple[object, ...]], table: str) -> set[str]:
    query = (
        "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid"
        " WHERE inhparent = %s::regclass"
    )
    return {str(row[0]) for row in raw.execute(query, [table])}


def _starts(first_at: datetime, last_at: datetime, interval: PartitionInterval) -> Iterator[datetime]:
    start = first_at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if interval == "year":
        start = start.replace(month=1)
    while start <= last_at:
        yield start
        start = _next_start(start, interval)


def _next_start(start: datetime, interval: PartitionInterval) -> datetime:
    if interval == "year":
        return start.replace(year=start.year + 1)
    return (start + timedelta(days=32)).replace(day=1)


def _partition_name(table: str, start: datetime, interval: PartitionInterval) -> str:
    return f"{table}_y{start:%Y}" if interval == "year" else f"{table}_y{start:%Y}m{start:%m}"


def _parse_partition_name(table: str, name: str, interval: PartitionInterval) -> datetime | None:
    """Where a partition begins; None for a name of another interval, or none of ours."""
    form = f"{table}_y%Y" if interval == "year" else f"{table}_y%Ym%m"
    try:
        return datetime.strptime(name, form).replace(tzinfo=UTC)
    except ValueError:
        return None
