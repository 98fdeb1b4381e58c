"""Platforms that tests back up and bring back: databases of their own, artifacts and a journal in folders."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from uuid import uuid4

import psycopg
from alembic import command
from alembic.config import Config
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url

from core.artifact_store import ArtifactStore, open_own_artifacts
from core.backup import create_backup
from core.backup_archive import Manifest
from core.database import build_libpq_url, build_tracking_store_url, create_database_engine
from core.restore import restore_backup
from core.settings import load_settings
from serving.journal_copies import read_journals

EARLIER_REVISION = "0004"


@dataclass(frozen=True)
class Place:
    """Where one platform keeps what it has."""

    url: str
    tracking_url: str
    folder: Path

    @property
    def artifacts(self) -> ArtifactStore:
        return open_own_artifacts(load_settings(artifacts=str(self.artifacts_folder)))

    @property
    def artifacts_folder(self) -> Path:
        return self.folder / "mlruns"

    @property
    def journal_folder(self) -> Path:
        return self.folder / "journal"

    def back_up(self, path: Path) -> Manifest:
        return create_backup(
            path,
            platform_url=self.url,
            tracking_url=self.tracking_url,
            artifacts=self.artifacts,
            read_journals=lambda: read_journals(self.journal_folder),
            progress=lambda _: None,
        )

    def restore(self, path: Path, artifacts: ArtifactStore | None = None) -> Manifest:
        return restore_backup(
            path,
            platform_url=self.url,
            tracking_url=self.tracking_url,
            artifacts=artifacts or self.artifacts,
            journal_folder=self.journal_folder,
            progress=lambda _: None,
        )

    def digest_tables(self) -> dict[str, str]:
        """A digest of the content of every table of both databases, whatever tables there are."""
        return {f"{of}.{name}": value for of, url in self._urls() for name, value in digest_tables(url).items()}

    def list_files(self) -> dict[str, str]:
        """SHA-256 of every file of artifacts and journal."""
        folders = (self.artifacts_folder, self.journal_folder)
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def is_empty(self) -> bool:
        return not self.digest_tables() and not self.list_files()

    def _urls(self) -> list[tuple[str, str]]:
        return [("platform", self.url), ("tracking", self.tracking_url)]


@contextmanager
def making_place(cluster_url: str, folder: Path) -> Iterator[Place]:
    """A place with two empty databases on the server of `cluster_url`."""
    names = [f"place_{uuid4().hex[:12]}" for _ in range(2)]
    with psycopg.connect(build_libpq_url(cluster_url), autocommit=True) as connection:
        for name in names:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            url = make_url(cluster_url).set(database=names[0]).render_as_string(hide_password=False)
            yield Place(url, build_tracking_store_url(cluster_url, names[1]), folder)
        finally:
            for name in names:
                connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def digest_tables(url: str) -> dict[str, str]:
    """MD5 of every table's rows in the order of their text."""
    query = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    digests = {}
    with psycopg.connect(build_libpq_url(url)) as connection:
        for (name,) in connection.execute(query).fetchall():
            rows = f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {name} t"  # noqa: S608
            found = connection.execute(rows.encode()).fetchone()
            assert found is not None
            digests[str(name)] = str(found[0])
    return digests


def make_earlier_platform(url: str) -> None:
    """The schema that an earlier version made, with a row in it."""
    engine = create_database_engine(url)
    with as_file(files("core") / "migrations") as folder, engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(folder))
        config.attributes["connection"] = connection
        command.upgrade(config, EARLIER_REVISION)
        connection.commit()
        connection.exec_driver_sql(
            "INSERT INTO serving_targets (model, target, set_by) VALUES ('prices', 'latest', 'me')"
        )
        connection.commit()
    engine.dispose()
