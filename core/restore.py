"""A backup brought back on an empty machine.

Everything is checked before anything is written. The platform's database comes last, in one transaction: where it is
there, all is. Until then the same command may be run again, and finds what it has brought already.
"""

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

import psycopg

from core.artifact_store import ArtifactStore, describe_fault
from core.backup import ARTIFACTS_FOLDER, JOURNAL_FOLDER, PLATFORM_PART, TRACKING_PART
from core.backup_archive import ArchiveReader, DatabasePart, Manifest, Progress, reading_archive
from core.database import build_libpq_url
from core.database_dumps import count_rows, load_revision, restore_database
from core.errors import MillraceError
from core.keeping_errors import BackupTooNew, RestoreFailed, TargetNotEmpty
from core.schema import check_is_known


def verify_backup(path: Path, progress: Progress) -> Manifest:
    """Read a backup from end to end; returns what it holds. Raises BackupDamaged, BackupNotFound, BackupTooNew."""
    with reading_archive(path) as archive:
        archive.verify(progress)
        return archive.manifest


def load_manifest(path: Path) -> Manifest:
    """What a backup says that it holds; raises as `verify_backup`, but reads no more than that."""
    with reading_archive(path) as archive:
        return archive.manifest


def restore_backup(
    path: Path,
    *,
    platform_url: str,
    tracking_url: str,
    artifacts: ArtifactStore,
    journal_folder: Path,
    progress: Progress,
) -> Manifest:
    """Bring a backup back into empty databases, an empty store and an empty journal; returns what it held.

    Raises BackupDamaged, BackupNotFound, BackupTooNew and TargetNotEmpty before anything is written, and RestoreFailed
    after which the same call goes on.
    """
    with reading_archive(path) as archive:
        manifest = archive.manifest
        check_is_known(str(path), manifest.platform.revision, manifest.tracking.revision)
        archive.verify(progress)
        is_tracking_there = _check_database(tracking_url, "MLflow's database", manifest.tracking, path)
        is_platform_there = _check_database(platform_url, "the platform's database", manifest.platform, path)
        _check_files(f"the artifact store {artifacts.address}", _list_store(artifacts), manifest, ARTIFACTS_FOLDER)
        _check_files(f"the journal {journal_folder}", _list_folder(journal_folder), manifest, JOURNAL_FOLDER)
        _restore_files(archive, ARTIFACTS_FOLDER, artifacts.store, progress)
        _restore_files(archive, JOURNAL_FOLDER, lambda local, name: _keep(local, journal_folder / name), progress)
        if not is_tracking_there:
            _restore_database(archive, TRACKING_PART, tracking_url, manifest.tracking, progress)
        if not is_platform_there:
            _restore_database(archive, PLATFORM_PART, platform_url, manifest.platform, progress)
        return manifest


def _check_database(url: str, what: str, expected: DatabasePart, path: Path) -> bool:
    """Whether the database holds this very backup already; raises TargetNotEmpty where it holds anything else."""
    with psycopg.connect(build_libpq_url(url), connect_timeout=10) as connection:
        major = connection.info.server_version // 10000
        rows = count_rows(connection)
        revision = load_revision(connection)
    if major < expected.server_major:
        reason = f"it is of PostgreSQL {expected.server_major}, and the server here has version {major}"
        raise BackupTooNew(str(path), reason)
    if not rows:
        return False
    if rows == expected.rows and revision == expected.revision:
        return True
    found = sorted(rows, key=lambda name: rows[name], reverse=True)
    raise TargetNotEmpty(what, [f"{name} ({rows[name]} rows)" for name in found], len(found))


def _list_store(artifacts: ArtifactStore) -> list[str]:
    return [name for name, _ in artifacts.list_files()]


def _list_folder(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def _check_files(what: str, found: Collection[str], manifest: Manifest, folder: str) -> None:
    known = {part.name.removeprefix(f"{folder}/") for part in manifest.list_below(folder)}
    others = sorted(set(found) - known)
    if others:
        raise TargetNotEmpty(what, others, len(others))


def _restore_files(archive: ArchiveReader, folder: str, keep: Callable[[Path, str], None], progress: Progress) -> None:
    parts = archive.manifest.list_below(folder)
    for number, part in enumerate(parts, 1):
        name = part.name.removeprefix(f"{folder}/")
        with tempfile.TemporaryDirectory(prefix="millrace-restore-") as place:
            local = Path(place) / PurePosixPath(name).name
            try:
                archive.extract(part.name, local)
                keep(local, name)
            except MillraceError:
                raise
            except Exception as error:
                # MLflow, boto3 and the system each word their own.
                raise RestoreFailed(part.name, describe_fault(error)) from error
        progress(f"{folder}: {number} of {len(parts)} files")


def _keep(local: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    target.write_bytes(local.read_bytes())
    target.chmod(0o600)


def _restore_database(archive: ArchiveReader, name: str, url: str, expected: DatabasePart, progress: Progress) -> None:
    with archive.opening(name) as source:
        restore_database(url, source, name)
    with psycopg.connect(build_libpq_url(url), connect_timeout=10) as connection:
        rows = count_rows(connection)
    if rows != expected.rows:
        table = next(one for one in sorted(rows | expected.rows) if rows.get(one) != expected.rows.get(one))
        raise RestoreFailed(name, f"{table} has {rows.get(table)} rows of {expected.rows.get(table)}")
    progress(f"{name}: {len(rows)} tables, {sum(rows.values())} rows")
