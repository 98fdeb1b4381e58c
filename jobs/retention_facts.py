"""What a clean-up's plan is made from, as registry, runs, database and this machine's folders have it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, exists, func, select

from core.connections import Connections
from core.contracts import load_models
from core.promotion import build_good_versions
from core.settings import Settings
from core.stored_runs import StoredRun, StoredRuns
from core.tables.data import rejected_rows, snapshots, source_pieces, sources
from core.tables.monitoring import findings
from core.tables.trainings import trainings
from core.targets import LATEST, PRODUCTION, load_targets
from core.tracking import SNAPSHOT_TAG
from core.trainings import OPEN_STATES
from core.transitions import load_history
from core.verdicts import load_passed_versions
from core.version_names import find_numbered, load_version_names
from jobs.retention import (
    ROLLBACK_VERSIONS,
    Facts,
    FileFact,
    FileKind,
    OpenTraining,
    ReportFact,
    RetentionPolicy,
    RunFact,
    SnapshotFact,
    SourceFact,
    VersionFact,
)

_LOG_FOLDERS = ("trainings", "tuning")
_DAMAGED = "*.damaged"


def build_policy(settings: Settings) -> RetentionPolicy:
    """The policy that the settings say."""
    return RetentionPolicy(
        kept_versions=settings.kept_versions,
        run_days=settings.run_days,
        report_days=settings.report_days,
        log_days=settings.log_days,
        source_days=settings.source_days,
    )


def load_facts(connections: Connections) -> tuple[Facts, dict[str, StoredRun]]:
    """The facts, and the runs in them by id."""
    # Before the registry is asked: what is registered meanwhile belongs to a training that is open here.
    with connections.engine.connect() as connection:
        models = load_models(connection)
        open_trainings = load_open_trainings(connection)
    runs = {run.run_id: (model, run) for model in models for run in _open_runs(connections).load(model)}
    versions = load_versions(connections, models)
    with connections.engine.connect() as connection:
        facts = Facts(
            versions=versions,
            runs=[_build_run(model, run) for model, run in runs.values()],
            snapshots=_load_snapshots(connection),
            reports=_load_reports(connection),
            sources=_load_sources(connection),
            files=list(_list_files(connections.settings)),
            trainings=open_trainings,
        )
    return facts, {run_id: run for run_id, (_, run) in runs.items()}


def load_versions(connections: Connections, models: list[str]) -> list[VersionFact]:
    """Every version of the registry, with what it is needed for."""
    registered = connections.registry.load_all_versions()
    aliases = connections.registry.load_aliases()
    with connections.engine.connect() as connection:
        needs = {model: _load_needs(connection, model) for model in models}
    return [
        VersionFact(
            model=one.model,
            version=one.version,
            stage=one.stage,
            aliases=tuple(aliases.get((one.model, one.version), ())),
            run_id=one.run_id,
            source=one.source,
            snapshot_digest=one.tags.get(SNAPSHOT_TAG),
            is_declared=one.model in needs,
            needed_for=tuple(needs.get(one.model, {}).get(one.version, ())),
        )
        for one in registered
    ]


def _open_runs(connections: Connections) -> StoredRuns:
    return StoredRuns(connections.settings.tracking_address)


def _load_needs(connection: Connection, model: str) -> dict[int, list[str]]:
    """What each version of the model is needed for, as the platform's own tables say."""
    needs: dict[int, list[str]] = {}
    names = load_version_names(connection, model)
    target = load_targets(connection).get(model, PRODUCTION)
    history = load_history(connection, model, None)
    passed = load_passed_versions(connection, model)
    numbered = None if target in (PRODUCTION, LATEST) else find_numbered(target, names)
    if numbered is not None:
        needs.setdefault(numbered, []).append("it is the serving target")
    if passed:
        needs.setdefault(max(passed), []).append("it is the latest that passed the gate")
    for version in build_good_versions(history)[-ROLLBACK_VERSIONS - 1 :]:
        needs.setdefault(version, []).append("a rollback may go back to it")
    for transition in history:
        if transition.state == "intended":
            needs.setdefault(transition.version, []).append("a transition of it is open")
    return needs


def load_open_trainings(connection: Connection) -> list[OpenTraining]:
    """The trainings that are queued or running."""
    columns = (trainings.c.id, trainings.c.model, trainings.c.run_id, trainings.c.snapshot_digest)
    query = select(*columns).where(trainings.c.state.in_(OPEN_STATES))
    return [OpenTraining(str(row.id), row.model, row.run_id, row.snapshot_digest) for row in connection.execute(query)]


def _build_run(model: str, run: StoredRun) -> RunFact:
    return RunFact(
        model=model,
        run_id=run.run_id,
        parent_id=run.parent_id,
        training_id=run.training_id,
        is_ours=run.is_ours,
        is_running=run.is_running,
        last_at=run.last_at,
        snapshot_uris=run.snapshot_uris,
        logged_models=run.logged_models,
    )


def _load_snapshots(connection: Connection) -> list[SnapshotFact]:
    columns = [snapshots.c[name] for name in ("model", "digest", "uri", "bytes", "created_at")]
    query = select(*columns).where(snapshots.c.removed_at.is_(None)).order_by(snapshots.c.created_at)
    return [SnapshotFact(*row) for row in connection.execute(query)]


def _load_reports(connection: Connection) -> list[ReportFact]:
    columns = (findings.c.model, findings.c.id, findings.c.report_uri, findings.c.found_at)
    query = select(*columns).where(findings.c.report_uri.is_not(None)).order_by(findings.c.found_at)
    return [
        ReportFact(row.model, str(row.id), row.report_uri.removeprefix("runs:/").partition("/")[0], row.found_at)
        for row in connection.execute(query)
    ]


def _load_sources(connection: Connection) -> list[SourceFact]:
    is_wanted = (sources.c.state == "rejected") | exists().where(rejected_rows.c.source_id == sources.c.id)
    size = func.sum(func.length(source_pieces.c.content))
    query = (
        select(
            sources.c.model,
            sources.c.id,
            sources.c.sha256,
            size,
            sources.c.received_at,
            is_wanted & sources.c.replayed_at.is_(None),
        )
        .join(source_pieces, source_pieces.c.source_id == sources.c.id)
        .group_by(sources.c.id)
        .order_by(sources.c.received_at)
    )
    return [
        SourceFact(row[0], str(row[1]), row[2], int(row[3]), row[4], bool(row[5])) for row in connection.execute(query)
    ]


def _list_files(settings: Settings) -> Iterator[FileFact]:
    for folder in _LOG_FOLDERS:
        for path in sorted((settings.logs_folder / folder).glob("*")):
            if path.is_file():
                # Named after its training and its attempt.
                yield _build_file("log", settings.home, path, path.name.partition(".")[0])
    for path in sorted(settings.journal_folder.glob(f"*/{_DAMAGED}")):
        yield _build_file("journal", settings.home, path, None)


def _build_file(kind: FileKind, home: Path, path: Path, training_id: str | None) -> FileFact:
    found = path.stat()
    changed_at = datetime.fromtimestamp(found.st_mtime, UTC)
    return FileFact(kind, str(path.relative_to(home)), training_id, found.st_size, changed_at)
