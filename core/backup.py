"""A backup of the whole platform, while it runs: databases, artifacts and what was predicted and not yet shipped.

The order makes the parts consistent. Journals come first: what is shipped while they are copied is in the databases,
which come later, and shipping it again inserts nothing. The two databases are of one moment. Artifacts come last: they
never change and only grow, so that whatever the databases name is there; removing them is excluded meanwhile.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psycopg

from core.artifact_store import ArtifactStore
from core.backup_archive import FORMAT, ArchiveWriter, DatabasePart, Manifest, PartFile, Progress, writing_archive
from core.database import hide_password
from core.database_dumps import Moment, dump_database, holding_moment
from core.errors import DatabaseUnavailable
from core.keeping_lock import hold_keeping_lock

PLATFORM_PART = "platform.dump"
TRACKING_PART = "tracking.dump"
ARTIFACTS_FOLDER = "artifacts"
JOURNAL_FOLDER = "journal"

JournalReader = Callable[[], Iterator[tuple[str, bytes]]]
"""Gives name, as `<folder>/<file>`, and content of each file of the journals."""


def choose_path(destination: Path, now: datetime | None = None) -> Path:
    """The file that a backup to `destination` becomes: itself, or one named after the time where it is a folder."""
    if not destination.is_dir():
        return destination
    return destination / f"millrace-{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"


def create_backup(
    path: Path,
    *,
    platform_url: str,
    tracking_url: str,
    artifacts: ArtifactStore,
    read_journals: JournalReader,
    progress: Progress,
) -> Manifest:
    """Write a backup to `path`, which is there when it is whole; returns what it holds.

    Every prediction that was answered before the call is in it. Raises BackupExists, BackupUnderWay, BackupFailed,
    KeepingUnderWay, DatabaseUnavailable, TrackingUnavailable.
    """
    with _reaching(platform_url, tracking_url), hold_keeping_lock(platform_url), writing_archive(path) as archive:
        count = 0
        for name, content in read_journals():
            archive.add(f"{JOURNAL_FOLDER}/{name}", partial(_write, content))
            count += 1
        progress(f"journals: {count} files")
        created_at = datetime.now(UTC)
        with holding_moment(platform_url, tracking_url) as (platform, tracking):
            for name, moment in ((PLATFORM_PART, platform), (TRACKING_PART, tracking)):
                part = archive.add(name, partial(dump_database, moment))
                progress(f"{name}: {len(moment.rows)} tables, {sum(moment.rows.values())} rows, {part.bytes} bytes")
        _add_artifacts(archive, artifacts, progress)
        manifest = Manifest(
            format=FORMAT,
            millrace=version("millrace"),
            created_at=created_at.isoformat(),
            platform=_describe(platform),
            tracking=_describe(tracking),
            parts=archive.parts,
        )
        archive.add_manifest(manifest)
    return manifest


def _write(content: bytes, target: PartFile) -> None:
    target.write(content)


def _add_artifacts(archive: ArchiveWriter, artifacts: ArtifactStore, progress: Progress) -> None:
    files = sorted(artifacts.list_files())
    total = sum(size for _, size in files)
    done = 0
    for number, (path, size) in enumerate(files, 1):
        with artifacts.fetching(path) as local:
            archive.add_file(f"{ARTIFACTS_FOLDER}/{path}", local)
        done += size
        progress(f"artifacts: {number} of {len(files)} files, {done / 1e6:.1f} of {total / 1e6:.1f} MB")


def _describe(moment: Moment) -> DatabasePart:
    return DatabasePart(moment.revision, moment.server_major, moment.rows)


@contextmanager
def _reaching(*urls: str) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        shown = " or ".join(dict.fromkeys(hide_password(url) for url in urls))
        raise DatabaseUnavailable(shown, str(error).strip().splitlines()[0]) from error
