"""What a clean-up removes and keeps, from facts alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.retention import (
    Decision,
    Facts,
    FileFact,
    OpenTraining,
    ReportFact,
    RetentionPolicy,
    RunFact,
    SnapshotFact,
    SourceFact,
    VersionFact,
    plan_clean_up,
)

NOW = datetime(2026, 11, 21, tzinfo=UTC)
POLICY = RetentionPolicy(kept_versions=2, run_days=90, report_days=365, log_days=90, source_days=30)
OLD = NOW - timedelta(days=400)
YOUNG = NOW - timedelta(days=1)


def build_version(number: int, **changes: object) -> VersionFact:
    version = VersionFact("prices", number, "None", (), f"run{number}", f"models:/m-{number}", f"digest{number}", True)
    return replace(version, **changes)  # type: ignore[arg-type]


def build_run(name: str, **changes: object) -> RunFact:
    return replace(RunFact("prices", name, None, f"training-{name}", True, False, OLD, (), ()), **changes)  # type: ignore[arg-type]


def find(facts: Facts, kind: str, name: str, policy: RetentionPolicy = POLICY) -> Decision:
    return next(one for one in plan_clean_up(facts, policy, NOW) if (one.kind, one.name) == (kind, name))


def list_removed(facts: Facts, kind: str, policy: RetentionPolicy = POLICY) -> list[str]:
    return [one.name for one in plan_clean_up(facts, policy, NOW) if one.kind == kind and one.is_removed]


def test_versions_beyond_the_newest_go_and_other_models_do_not_count() -> None:
    other = build_version(9, model="books")
    facts = Facts(versions=[*(build_version(number) for number in range(1, 6)), other])
    assert list_removed(facts, "version") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"stage": "Production"}, "it is in Production"),
        ({"stage": "Staging"}, "it is in Staging"),
        ({"aliases": ("pinned",)}, "it has alias pinned"),
        ({"needed_for": ("it is the serving target",)}, "it is the serving target"),
        ({"is_declared": False}, "its model is no workload of the platform"),
    ],
)
def test_version_that_is_needed_stays_however_old(change: dict[str, object], why: str) -> None:
    facts = Facts(versions=[build_version(1, **change), *(build_version(number) for number in range(2, 6))])
    kept = find(facts, "version", "1")
    assert (kept.is_removed, kept.reason) == (False, why)
    assert list_removed(facts, "version") == ["2", "3"]


def test_nothing_of_a_model_that_is_being_trained_goes() -> None:
    training = OpenTraining("t", "prices", None, None)
    snapshot = SnapshotFact("prices", "d", "uri", 1, OLD)
    facts = Facts(versions=[build_version(number) for number in range(1, 6)], snapshots=[snapshot])
    assert list_removed(facts, "version") and list_removed(facts, "snapshot")
    during = replace(facts, trainings=[training])
    assert list_removed(during, "version") == list_removed(during, "snapshot") == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"is_ours": False}, "a person made it"),
        ({"is_running": True}, "it is under way"),
        ({"training_id": "open"}, "it is under way"),
        ({"last_at": YOUNG}, "it ended within 90 days"),
        ({"run_id": "run1"}, "a registered version names it"),
        ({"logged_models": ("m-1",)}, "a registered version names it"),
        ({"run_id": "in_its_address"}, "a registered version names it"),
        ({"run_id": "reported"}, "it has a report younger than 365 days"),
    ],
)
def test_run_goes_when_nothing_needs_it(change: dict[str, object], why: str | None) -> None:
    run = build_run("r", **change)
    versions = [build_version(1), build_version(2, run_id="", source="runs:/in_its_address/model")]
    facts = Facts(
        runs=[run],
        versions=versions,
        reports=[ReportFact("prices", "f", "reported", YOUNG)],
        trainings=[OpenTraining("open", "books", None, None)],
    )
    decision = find(facts, "run", run.run_id)
    assert decision.is_removed == (why is None)
    assert why is None or decision.reason == why


def test_what_one_of_a_family_is_needed_for_all_of_it_is() -> None:
    facts = Facts(
        versions=[build_version(1)],
        runs=[
            build_run("parent"),
            build_run("run1", parent_id="parent"),
            build_run("sibling", parent_id="parent"),
            build_run("alone"),
            build_run("orphan", parent_id="gone"),
        ],
    )
    assert list_removed(facts, "run") == ["alone", "orphan"]


def test_snapshot_goes_with_the_last_that_was_trained_on_it() -> None:
    facts = Facts(
        versions=[build_version(1)],
        runs=[
            build_run("kept", is_ours=False, snapshot_uris=("of-kept",)),
            build_run("gone", snapshot_uris=("of-gone",)),
        ],
        snapshots=[
            SnapshotFact("prices", "digest1", "of-version", 1, OLD),
            SnapshotFact("prices", "b", "of-kept", 1, OLD),
            SnapshotFact("prices", "c", "of-gone", 1, OLD),
            SnapshotFact("prices", "d", "of-nothing", 1, YOUNG),
        ],
    )
    assert list_removed(facts, "snapshot") == ["c"]


def test_raw_bytes_stay_for_ever_unless_a_setting_says_otherwise() -> None:
    def build(name: str, sha256: str, at: datetime, *, is_wanted: bool = False) -> SourceFact:
        return SourceFact("prices", name, sha256, 10, at, is_wanted)

    facts = Facts(
        sources=[
            build("old", "a", OLD),
            build("young", "b", YOUNG),
            build("rejected", "c", OLD, is_wanted=True),
            build("keeps the bytes of a young one", "d", OLD),
            build("the same bytes", "d", YOUNG),
        ]
    )
    assert list_removed(facts, "source") == ["old"]
    assert list_removed(facts, "source", replace(POLICY, source_days=None)) == []


def test_reports_and_logs_go_by_their_age() -> None:
    facts = Facts(
        reports=[ReportFact("prices", "old", "r", OLD), ReportFact("prices", "young", "r", YOUNG)],
        files=[
            FileFact("log", "old", "t1", 1, OLD),
            FileFact("log", "open", "t2", 1, OLD),
            FileFact("log", "young", "t3", 1, YOUNG),
            FileFact("journal", "damaged", None, 1, OLD),
        ],
        trainings=[OpenTraining("t2", "books", None, None)],
    )
    assert list_removed(facts, "report") == ["old"]
    assert (list_removed(facts, "log"), list_removed(facts, "journal")) == (["old"], ["damaged"])


@settings(max_examples=200, deadline=None)
@given(
    stages=st.lists(st.sampled_from(["None", "Archived", "Production", "Staging"]), max_size=12),
    kept=st.integers(1, 4),
    parents=st.lists(st.integers(0, 14), max_size=12),
)
def test_no_plan_removes_what_the_registry_stands_on(stages: list[str], kept: int, parents: list[int]) -> None:
    versions = [build_version(number, stage=stage) for number, stage in enumerate(stages)]
    runs = [build_run(f"run{number}", parent_id=f"run{parent}") for number, parent in enumerate(parents)]
    facts = Facts(
        versions=versions,
        runs=runs,
        snapshots=[SnapshotFact("prices", f"digest{number}", f"uri{number}", 1, OLD) for number in range(14)],
    )
    decisions = plan_clean_up(facts, replace(POLICY, kept_versions=kept), NOW)
    gone = {(one.kind, one.name) for one in decisions if one.is_removed}
    for one in versions:
        assert not gone & {("run", one.run_id), ("snapshot", str(one.snapshot_digest))}
        assert one.stage in ("None", "Archived") or ("version", str(one.version)) not in gone
    assert sum(("version", str(one.version)) not in gone for one in versions) >= min(kept, len(versions))
    # Each thing is decided once.
    assert len(decisions) == len(versions) + len(runs) + 14
