"""What a clean-up removes and what it keeps: one pure function from facts to a plan.

Of what the registry or the history needs nothing goes, whatever the settings say: what serves or may serve again, the
runs and snapshots behind it, and all that an open training works on.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Kind = Literal["version", "run", "snapshot", "report", "source", "log", "journal"]

FileKind = Literal["log", "journal"]

ROLLBACK_VERSIONS = 5
"""So many of the versions that a rollback goes back to, one after the other, are kept."""
RESTING_STAGES = ("None", "Archived")


@dataclass(frozen=True)
class RetentionPolicy:
    """The settings: numbers and days; no days for what is kept for ever."""

    kept_versions: int
    run_days: int
    report_days: int
    log_days: int
    source_days: int | None


@dataclass(frozen=True)
class VersionFact:
    """One version of the registry; `is_declared` says that its model is a workload's, `reasons` why it is needed."""

    model: str
    version: int
    stage: str
    aliases: tuple[str, ...]
    run_id: str
    source: str
    snapshot_digest: str | None
    is_declared: bool
    needed_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFact:
    """One run; `is_ours` says that the platform made it, and not a person in the same experiment."""

    model: str
    run_id: str
    parent_id: str | None
    training_id: str | None
    is_ours: bool
    is_running: bool
    last_at: datetime
    snapshot_uris: tuple[str, ...]
    logged_models: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotFact:
    """One snapshot whose file is there."""

    model: str
    digest: str
    uri: str
    bytes: int
    created_at: datetime


@dataclass(frozen=True)
class ReportFact:
    """The page of one finding, among the artifacts of a run."""

    model: str
    finding_id: str
    run_id: str
    found_at: datetime


@dataclass(frozen=True)
class SourceFact:
    """Raw bytes as they came; `is_wanted` says that rejected rows of theirs may still be replayed."""

    model: str
    source_id: str
    sha256: str
    bytes: int
    received_at: datetime
    is_wanted: bool


@dataclass(frozen=True)
class FileFact:
    """A log or a damaged segment on this machine, by its path below the home."""

    kind: FileKind
    name: str
    training_id: str | None
    bytes: int
    changed_at: datetime


@dataclass(frozen=True)
class OpenTraining:
    """A training that is queued or running."""

    training_id: str
    model: str
    run_id: str | None
    snapshot_digest: str | None


@dataclass(frozen=True)
class Facts:
    """All that a plan is made from."""

    versions: Sequence[VersionFact] = ()
    runs: Sequence[RunFact] = ()
    snapshots: Sequence[SnapshotFact] = ()
    reports: Sequence[ReportFact] = ()
    sources: Sequence[SourceFact] = ()
    files: Sequence[FileFact] = ()
    trainings: Sequence[OpenTraining] = ()


@dataclass(frozen=True)
class Decision:
    """One thing, whether it goes, and why; `bytes` is None where its size is not known."""

    kind: Kind
    model: str
    name: str
    is_removed: bool
    reason: str
    bytes: int | None = None


def plan_clean_up(facts: Facts, policy: RetentionPolicy, now: datetime) -> list[Decision]:
    """What goes and what stays, in the order in which it may go: versions, runs, snapshots, then the rest.

    A run goes when no version names it any more, so a version's run goes at a later time than the version, and a
    snapshot when no run or version that stays names it.
    """
    versions = judge_versions(facts, policy)
    runs = _judge_runs(facts, policy, now)
    kept_runs = [run for run, decision in zip(facts.runs, runs, strict=True) if not decision.is_removed]
    return [
        *versions,
        *runs,
        *_judge_snapshots(facts, kept_runs, policy, now),
        *_judge_reports(facts, policy, now),
        *_judge_sources(facts, policy, now),
        *_judge_files(facts, policy, now),
    ]


def judge_versions(facts: Facts, policy: RetentionPolicy) -> list[Decision]:
    """Which versions go, by themselves: asked once more, under the model's lock, before one does."""
    newest: dict[str, list[int]] = {}
    for one in sorted(facts.versions, key=lambda one: one.version, reverse=True):
        newest.setdefault(one.model, []).append(one.version)
    being_trained = {training.model for training in facts.trainings}

    def find_need(one: VersionFact) -> str | None:
        if not one.is_declared:
            return "its model is no workload of the platform"
        if one.stage not in RESTING_STAGES:
            return f"it is in {one.stage}"
        if one.aliases:
            return f"it has alias {one.aliases[0]}"
        if one.needed_for:
            return one.needed_for[0]
        if one.version in newest[one.model][: policy.kept_versions]:
            return f"it is among the last {policy.kept_versions}"
        if one.model in being_trained:
            return "a training of its model is open"
        return None

    gone = f"older than the last {policy.kept_versions}, and nothing serves it or goes back to it"
    return [_decide("version", one.model, str(one.version), find_need(one), gone) for one in facts.versions]


def _judge_runs(facts: Facts, policy: RetentionPolicy, now: datetime) -> list[Decision]:
    families = _build_families(facts.runs)
    open_ids = {training.training_id for training in facts.trainings} | {
        training.run_id for training in facts.trainings if training.run_id is not None
    }
    # A version names its run, and as its source `models:/m-…` or an address with the run's id in it.
    named = {part for one in facts.versions for part in (one.run_id, *one.source.replace(":", "/").split("/"))}
    border = now - timedelta(days=policy.run_days)
    reported = {one.run_id for one in facts.reports if one.found_at > now - timedelta(days=policy.report_days)}

    def find_own_need(run: RunFact) -> str | None:
        if not run.is_ours:
            return "a person made it"
        if named.intersection((run.run_id, *run.logged_models)):
            return "a registered version names it"
        if run.is_running or run.run_id in open_ids or run.training_id in open_ids:
            return "it is under way"
        if run.run_id in reported:
            return f"it has a report younger than {policy.report_days} days"
        if run.last_at > border:
            return f"it ended within {policy.run_days} days"
        return None

    # What one of a family is needed for, all of it is: the children of a run are its folds and variants.
    needs: dict[str, str] = {}
    for run in facts.runs:
        need = find_own_need(run)
        if need is not None:
            needs.setdefault(families[run.run_id], need)
    gone = f"without a version, ended more than {policy.run_days} days ago"
    return [_decide("run", run.model, run.run_id, needs.get(families[run.run_id]), gone) for run in facts.runs]


def _build_families(runs: Iterable[RunFact]) -> dict[str, str]:
    """The outermost run of each run; a run whose parent is gone is its own."""
    parents = {run.run_id: run.parent_id for run in runs}

    def find_root(run_id: str) -> str:
        seen: list[str] = []
        while (parent := parents.get(run_id)) in parents and run_id not in seen:
            seen.append(run_id)
            run_id = str(parent)
        return run_id

    return {run_id: find_root(run_id) for run_id in parents}


def _judge_snapshots(
    facts: Facts, kept_runs: Collection[RunFact], policy: RetentionPolicy, now: datetime
) -> list[Decision]:
    by_versions = {one.snapshot_digest for one in facts.versions}
    by_trainings = {training.snapshot_digest for training in facts.trainings}
    by_runs = {uri for run in kept_runs for uri in run.snapshot_uris}
    # A training that is queued cuts or finds its snapshot at any moment from now on.
    being_trained = {training.model for training in facts.trainings}
    border = now - timedelta(days=policy.run_days)

    def find_need(one: SnapshotFact) -> str | None:
        if one.digest in by_versions:
            return "a registered version was trained on it"
        if one.digest in by_trainings or one.model in being_trained:
            return "a training of its model is open"
        if one.uri in by_runs:
            return "a run that stays was trained on it"
        if one.created_at > border:
            return f"it was cut within {policy.run_days} days"
        return None

    gone = f"no version or run names it, cut more than {policy.run_days} days ago"
    return [_decide("snapshot", one.model, one.digest, find_need(one), gone, one.bytes) for one in facts.snapshots]


def _judge_reports(facts: Facts, policy: RetentionPolicy, now: datetime) -> list[Decision]:
    days = policy.report_days
    gone = f"older than {days} days; the finding stays"
    return [
        _decide("report", one.model, one.finding_id, _find_youth(one.found_at, days, now), gone)
        for one in facts.reports
    ]


def _judge_sources(facts: Facts, policy: RetentionPolicy, now: datetime) -> list[Decision]:
    days = policy.source_days

    def find_need(one: SourceFact) -> str | None:
        if days is None:
            return "raw bytes are kept for ever"
        if one.is_wanted:
            return "rows of it are rejected and may be replayed"
        return _find_youth(one.received_at, days, now)

    # The same bytes are kept once, for all sources that brought them.
    shared = {(one.model, one.sha256): need for one in facts.sources if (need := find_need(one)) is not None}
    gone = f"older than {days} days; its rows and its record stay"
    return [
        _decide("source", one.model, one.source_id, shared.get((one.model, one.sha256)), gone, one.bytes)
        for one in facts.sources
    ]


def _judge_files(facts: Facts, policy: RetentionPolicy, now: datetime) -> list[Decision]:
    open_ids = {training.training_id for training in facts.trainings}
    gone = f"last written more than {policy.log_days} days ago"

    def find_need(one: FileFact) -> str | None:
        return "it is under way" if one.training_id in open_ids else _find_youth(one.changed_at, policy.log_days, now)

    return [_decide(one.kind, "", one.name, find_need(one), gone, one.bytes) for one in facts.files]


def _find_youth(at: datetime, days: int, now: datetime) -> str | None:
    return f"it is younger than {days} days" if at > now - timedelta(days=days) else None


def _decide(kind: Kind, model: str, name: str, need: str | None, gone: str, size: int | None = None) -> Decision:
    return Decision(kind, model, name, need is None, gone if need is None else need, size)
