"""Commands that keep what there is: backup, restore, upgrade, clean-up."""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from cli.actor import find_actor
from cli.command_settings import load_command_settings
from cli.output import JsonOption, console, errors, print_json, print_table
from cli.session import platform_session
from cli.status import answers
from core.artifact_store import ArtifactStore, open_artifacts, open_own_artifacts
from core.backup import choose_path, create_backup
from core.backup_archive import Manifest, Progress
from core.connections import open_connections
from core.database import create_database_engine
from core.errors import ParameterRejected
from core.job_queue import count_live_workers
from core.keeping_errors import PlatformRuns, UpgradeNeedsBackup
from core.local_platform import open_unprepared_database
from core.restore import load_manifest, restore_backup, verify_backup
from core.schema import Standing, load_platform_schema, load_tracking_schema, upgrade_schemas
from core.settings import Settings
from core.tracking_server import is_tracking_ready
from jobs.clean_up import clean_up, plan
from jobs.startup import declare_workloads
from serving.journal_copies import read_journals

_TELL_EVERY_S = 2.0

JournalOption = Annotated[
    list[Path] | None,
    typer.Option(help="A folder of journals to take, may be repeated; by default the one in MILLRACE_HOME."),
]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(backup)
    app.command()(restore)
    app.command()(upgrade)
    app.command()(gc)


def backup(
    path: Annotated[Path, typer.Argument(help="The file to write, or a folder for one named after the time.")],
    *,
    is_verified: Annotated[
        bool, typer.Option("--verify", help="Read the backup that is at this path from end to end, and write nothing.")
    ] = False,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up everything while it runs: both databases, artifacts, predictions that are not shipped yet."""
    if is_verified:
        manifest = verify_backup(path, _build_progress())
        _print_backup("is whole", path, manifest, as_json=as_json)
        return
    settings = load_command_settings()
    target = choose_path(path.absolute())
    with open_unprepared_database(settings, _tell, is_made=False) as (url, tracking_url):
        manifest = _back_up(target, settings, (url, tracking_url), open_artifacts(settings), journal)
    _print_backup("is written", target, manifest, as_json=as_json)


def restore(
    path: Annotated[Path, typer.Argument(help="The backup's file.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Bring a backup back on an empty machine; afterwards `millrace up` goes on from where it was."""
    settings = load_command_settings()
    progress = _build_progress()
    _refuse_running("A restore", settings, None)
    # A file that is none is refused before a database is made for it.
    load_manifest(path)
    with open_unprepared_database(settings, _tell, is_made=True) as (url, tracking_url):
        manifest = restore_backup(
            path,
            platform_url=url,
            tracking_url=tracking_url,
            artifacts=open_own_artifacts(settings),
            journal_folder=settings.journal_folder,
            progress=progress,
        )
        behind = [
            schema
            for schema in (load_platform_schema(url), load_tracking_schema(tracking_url))
            if schema.standing is Standing.OUTDATED
        ]
    _print_backup("is restored", path, manifest, as_json=as_json)
    if behind and not as_json:
        console.print("It is of an earlier version: run `millrace upgrade` before `millrace up`.")


def upgrade(
    *,
    backup_path: Annotated[
        Path | None, typer.Option("--backup", help="Make a backup first: this file, or in this folder.")
    ] = None,
    is_without_backup: Annotated[
        bool, typer.Option("--without-backup", help="Change the databases although no backup is made.")
    ] = False,
    journal: JournalOption = None,
) -> None:
    """Bring both databases to what this version needs, MLflow's and the platform's, and write the contracts."""
    if backup_path is not None and is_without_backup:
        raise ParameterRejected("--without-backup", True, "it contradicts --backup")
    settings = load_command_settings()
    with open_unprepared_database(settings, _tell, is_made=True) as urls:
        schemas = [load_tracking_schema(urls[1]), load_platform_schema(urls[0])]
        changes = [
            f"the {schema.database} database, {schema.found} -> {schema.newest}"
            for schema in schemas
            if schema.standing is Standing.OUTDATED
        ]
        for schema in schemas:
            if schema.standing is Standing.TOO_NEW:
                schema.require_current()
        if changes:
            _refuse_running("An upgrade", settings, urls[0])
            if backup_path is not None:
                target = choose_path(backup_path.absolute())
                # A tracking server of the new version refuses the old schema, so nothing answers for the artifacts.
                manifest = _back_up(target, settings, urls, open_own_artifacts(settings), journal)
                _print_backup("is written", target, manifest, as_json=False)
            elif not is_without_backup:
                raise UpgradeNeedsBackup(changes)
        upgrade_schemas(*urls, _print)
        with open_connections(settings, urls[0]) as connections:
            declare_workloads(connections)
    console.print("Both databases are what this version needs.")


def gc(
    *,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go and what stays, with the reasons, and remove nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what the settings no longer keep, as the worker does every night; never what serves or is gone back to."""
    with platform_session() as connections:
        decisions = plan(connections) if is_dry_run else clean_up(connections, find_actor())
    if as_json:
        print_json(decisions)
        return
    removed = [decision for decision in decisions if decision.is_removed]
    rows: list[list[object]] = [[one.kind, one.model, one.name, _show_size(one.bytes), one.reason] for one in removed]
    if rows:
        title = "To be removed" if is_dry_run else "Removed"
        print_table(title, ["kind", "model", "name", "size", "why"], rows)
    freed = sum(one.bytes or 0 for one in removed)
    _print(f"{len(removed)} {'would go' if is_dry_run else 'removed'}, {_show_size(freed)}")
    if is_dry_run:
        stays = Counter((one.kind, one.model, one.reason) for one in decisions if not one.is_removed)
        if stays:
            print_table(
                "Stays", ["kind", "model", "how many", "why"], [[*key[:2], n, key[2]] for key, n in stays.items()]
            )


def _show_size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f} MB"


def _back_up(
    target: Path,
    settings: Settings,
    urls: tuple[str, str],
    artifacts: ArtifactStore,
    journals: list[Path] | None,
) -> Manifest:
    folders = journals or [settings.journal_folder]

    def read() -> Iterator[tuple[str, bytes]]:
        return chain.from_iterable(read_journals(folder) for folder in folders)

    return create_backup(
        target,
        platform_url=urls[0],
        tracking_url=urls[1],
        artifacts=artifacts,
        read_journals=read,
        progress=_build_progress(),
    )


def _refuse_running(act: str, settings: Settings, url: str | None) -> None:
    """Raise PlatformRuns where a process of the platform shows that it lives."""
    looks = {
        "tracking": is_tracking_ready(settings.tracking_address),
        "control": answers(f"{settings.control_address}/health/live"),
        "serving": answers(f"{settings.serving_address}/health/live"),
        "worker": url is not None and _has_worker(url, settings.worker_timeout_s),
    }
    parts = [name for name, is_running in looks.items() if is_running]
    if parts:
        raise PlatformRuns(act, parts)


def _has_worker(url: str, timeout_s: float) -> bool:
    if load_platform_schema(url).standing is Standing.EMPTY:
        return False
    engine = create_database_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            return count_live_workers(connection, timeout_s) > 0
    finally:
        engine.dispose()


def _print_backup(became: str, path: Path, manifest: Manifest, *, as_json: bool) -> None:
    document = {
        "path": str(path),
        "created_at": manifest.created_at,
        "millrace": manifest.millrace,
        "revisions": {"platform": manifest.platform.revision, "mlflow": manifest.tracking.revision},
        "rows": {"platform": sum(manifest.platform.rows.values()), "mlflow": sum(manifest.tracking.rows.values())},
        "artifacts": len(manifest.list_below("artifacts")),
        "journal_files": len(manifest.list_below("journal")),
        "bytes": manifest.bytes,
    }
    if as_json:
        print_json(document)
        return
    rows = manifest.platform.rows
    _print(
        f"{path} {became}: {manifest.bytes / 1e6:.1f} MB of {manifest.created_at[:19]} UTC, "
        f"{sum(rows.values())} rows in {len(rows)} tables, {document['artifacts']} artifacts, "
        f"{document['journal_files']} journal files"
    )


def _build_progress() -> Progress:
    """Tells how far a long step is, every two seconds, on standard error."""
    told_at_s = 0.0

    def tell(sentence: str) -> None:
        nonlocal told_at_s
        now_s = time.monotonic()
        if now_s - told_at_s >= _TELL_EVERY_S:
            told_at_s = now_s
            _tell(sentence)

    return tell


def _tell(sentence: str) -> None:
    errors.print(sentence, markup=False, soft_wrap=True)


def _print(sentence: str) -> None:
    console.print(sentence, markup=False, soft_wrap=True)
