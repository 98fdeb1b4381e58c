"""The schemas of both databases: which revision each has, which this installation needs, and the way between.

A process never changes a schema that is there: `millrace upgrade` does, with a backup before it.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import create_engine

from core.database import build_libpq_url, create_tracking_database, hide_password, migrate_database
from core.database_dumps import load_revision
from core.errors import DatabaseUnavailable
from core.keeping_errors import BackupTooNew, SchemaOutdated, SchemaTooNew

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

PLATFORM = "platform's"
TRACKING = "MLflow"


class Standing(Enum):
    """How a database's schema stands to what this installation needs."""

    EMPTY = "empty"
    CURRENT = "current"
    OUTDATED = "outdated"
    TOO_NEW = "too new"


@dataclass(frozen=True)
class Schema:
    """One database's revision and the newest that is known here."""

    database: str
    found: str | None
    newest: str
    standing: Standing

    def require_current(self) -> None:
        """Raise SchemaOutdated or SchemaTooNew where processes cannot work on it; an empty one they fill."""
        if self.standing is Standing.TOO_NEW:
            raise SchemaTooNew(self.database, str(self.found), self.newest)
        if self.standing is Standing.OUTDATED:
            raise SchemaOutdated(self.database, str(self.found), self.newest)


def load_platform_schema(url: str) -> Schema:
    """The schema of the platform's own database; raises DatabaseUnavailable."""
    with _opening_platform_script() as script:
        return _judge(PLATFORM, _load(url), script)


def load_tracking_schema(url: str) -> Schema:
    """The schema of MLflow's database; one that does not exist is empty. Raises DatabaseUnavailable."""
    try:
        found = _load(url)
    except DatabaseUnavailable as error:
        if isinstance(error.__cause__, psycopg.OperationalError) and "does not exist" in str(error.__cause__):
            found = None
        else:
            raise
    return _judge(TRACKING, found, _build_tracking_script())


def prepare_database(url: str) -> None:
    """Make the schema of an empty database; raises SchemaOutdated and SchemaTooNew for one that is another's."""
    if _is_current(url):
        create_tracking_database(url)
        return
    schema = load_platform_schema(url)
    schema.require_current()
    if schema.standing is Standing.EMPTY:
        migrate_database(url)
    else:
        create_tracking_database(url)


def _is_current(url: str) -> bool:
    """Whether the schema is that of the last migration, read from the migrations' own files.

    Alembic, which would say so too, takes a second to import, before every command and every start.
    """
    texts = [one.read_text() for one in (files("core") / "migrations" / "versions").iterdir() if one.name[0].isdigit()]
    revisions = {found for text in texts for found in re.findall(r'^revision = "(\w+)"', text, re.MULTILINE)}
    earlier = {found for text in texts for found in re.findall(r'^down_revision = "(\w+)"', text, re.MULTILINE)}
    try:
        with psycopg.connect(build_libpq_url(url), connect_timeout=5) as connection:
            present = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except psycopg.errors.UndefinedTable:
        return False
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(hide_password(url), str(error).strip().splitlines()[0]) from error
    return {str(row[0]) for row in present} == revisions - earlier


def upgrade_schemas(platform_url: str, tracking_url: str, tell: Callable[[str], None]) -> None:
    """Bring both databases to what this installation needs; run again it does what is left.

    MLflow's comes first: as long as the platform's is old none of its processes starts, so that one that starts finds
    both done. Raises SchemaTooNew before anything is changed.
    """
    tracking, platform = load_tracking_schema(tracking_url), load_platform_schema(platform_url)
    for schema in (tracking, platform):
        if schema.standing is Standing.TOO_NEW:
            schema.require_current()
    if tracking.standing is Standing.OUTDATED:
        _upgrade_tracking(tracking_url)
        tell(f"MLflow's database: {tracking.found} -> {tracking.newest}")
    if platform.standing is not Standing.CURRENT:
        migrate_database(platform_url)
        tell(f"the platform's database: {platform.found or 'empty'} -> {platform.newest}")


def check_is_known(path: str, platform: str | None, tracking: str | None) -> None:
    """Raise BackupTooNew for revisions that this installation does not know."""
    with _opening_platform_script() as script:
        known = [(PLATFORM, platform, script), (TRACKING, tracking, _build_tracking_script())]
        for database, revision, one in known:
            if _judge(database, revision, one).standing is Standing.TOO_NEW:
                reason = f"its {database} schema {revision} is of a later version than is installed"
                raise BackupTooNew(path, reason)


def _judge(database: str, found: str | None, script: "ScriptDirectory") -> Schema:
    newest = str(script.get_current_head())
    known = {revision.revision for revision in script.walk_revisions()}
    if found is None:
        standing = Standing.EMPTY
    elif found == newest:
        standing = Standing.CURRENT
    else:
        standing = Standing.OUTDATED if found in known else Standing.TOO_NEW
    return Schema(database, found, newest, standing)


def _load(url: str) -> str | None:
    try:
        with psycopg.connect(build_libpq_url(url), connect_timeout=5) as connection:
            return load_revision(connection)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(hide_password(url), str(error).strip().splitlines()[0]) from error


@contextmanager
def _opening_platform_script() -> "Iterator[ScriptDirectory]":
    # Serving looks at the schema once it starts; a second of import would stand before every other use.
    from alembic.script import ScriptDirectory

    with as_file(files("core") / "migrations") as folder:
        yield ScriptDirectory(str(folder))


def _build_tracking_script() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    with as_file(files("mlflow") / "store" / "db_migrations") as folder:
        return ScriptDirectory(str(folder))


def _upgrade_tracking(url: str) -> None:
    """What `mlflow db upgrade` does; its command line would show the password to everyone on the machine."""
    from mlflow.store.db.utils import _upgrade_db

    engine = create_engine(url)
    try:
        with warnings.catch_warnings():
            # MLflow's own models are written for an earlier SQLAlchemy.
            warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
            _upgrade_db(engine)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
    finally:
        engine.dispose()
