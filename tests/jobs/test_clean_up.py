"""A clean-up on a real registry, real runs and a real database."""

import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import insert, text

from core.connections import Connections
from core.errors import NothingToRollBackTo
from core.keeping_errors import KeepingUnderWay
from core.keeping_lock import hold_keeping_lock
from core.promotion import promote, rollback
from core.stored_runs import StoredRuns
from core.tables.monitoring import findings
from core.targets import set_target
from core.tracking import SNAPSHOT_TAG, TRAINING_TAG
from core.trainings import request_training
from ingestion.snapshots import create_snapshot
from jobs.clean_up import clean_up, plan
from jobs.retention import Decision
from jobs.startup import declare_workloads
from tests.jobs.requesting import bring_rows, change_settings
from workloads.catalogue import get_workload

LATER = datetime.now(UTC) + timedelta(days=1000)


@pytest.fixture
def model(connections: Connections, tracking_server: str) -> str:
    """A declared model; its registered model and experiment are the test's own."""
    name = f"kept_{uuid.uuid4().hex[:8]}"
    declare_workloads(connections)
    with connections.engine.begin() as connection:
        connection.execute(text("DELETE FROM workloads WHERE model <> 'prices'"))
        connection.execute(text("INSERT INTO workloads SELECT :name, contract FROM workloads"), {"name": name})
        connection.execute(text("DELETE FROM workloads WHERE model = 'prices'"))
    return name


@pytest.fixture
def connections(connections: Connections, tmp_path: Path) -> Connections:
    return change_settings(connections, home=tmp_path / "home", kept_versions=2)


def add_run(connections: Connections, model: str, **tags: str) -> str:
    """A finished run of a training, with two files."""
    tracking = connections.tracking
    run_id = tracking.start_run(model, None, {TRAINING_TAG: str(uuid.uuid4()), **tags})
    tracking.log_document(run_id, {"a": 1}, "version/contract.json")
    tracking.log_document(run_id, {"b": 2}, "plots/deep/plot.json")
    tracking.finish_run(run_id, "FINISHED")
    return run_id


def add_versions(connections: Connections, model: str, count: int) -> list[str]:
    """Versions with a run each; the runs' ids."""
    runs = [add_run(connections, model) for _ in range(count)]
    for run_id in runs:
        connections.registry.register(model, run_id, f"runs:/{run_id}/version", {SNAPSHOT_TAG: "none"})
    return runs


def move(connections: Connections, model: str, version: int) -> None:
    promote(connections.engine, connections.registry, model, version, actor="tests", cause="gate", reason="")


def list_versions(connections: Connections, model: str) -> list[int]:
    return sorted(one.version for one in connections.registry.load_versions(model))


def list_removed(decisions: list[Decision], kind: str) -> list[str]:
    return sorted(one.name for one in decisions if one.kind == kind and one.is_removed)


def list_files(connections: Connections, run_id: str) -> list[Path]:
    """What the store's folder still has of a run."""
    return [path for path in Path(connections.settings.artifacts).rglob("*") if run_id in path.parts and path.is_file()]


def test_clean_up_leaves_what_serves_and_what_a_rollback_goes_back_to(connections: Connections, model: str) -> None:
    add_versions(connections, model, 8)
    for version in (1, 3):
        move(connections, model, version)
    with connections.engine.begin() as connection:
        set_target(connection, model, "4", "tests")

    planned = plan(connections)
    removed = clean_up(connections, "tests")

    assert list_removed(planned, "version") == list_removed(removed, "version") == ["2", "5", "6"]
    assert list_versions(connections, model) == [1, 3, 4, 7, 8]
    assert clean_up(connections, "tests") == []
    assert rollback(connections.engine, connections.registry, model, actor="tests").version == 1
    with connections.engine.connect() as connection:
        recorded = connection.execute(text("SELECT kind, model, name, actor FROM removals ORDER BY id")).all()
    assert {tuple(row) for row in recorded} == {("version", model, name, "tests") for name in ("2", "5", "6")}


def test_run_goes_with_its_files_when_its_version_is_gone(connections: Connections, model: str) -> None:
    runs = add_versions(connections, model, 3)
    move(connections, model, 3)
    by_hand = MlflowClient(connections.settings.tracking_address).create_run(
        connections.tracking.ensure_experiment(model)
    )
    MlflowClient(connections.settings.tracking_address).set_terminated(by_hand.info.run_id)

    assert list_removed(clean_up(connections, "tests", LATER), "version") == ["1"]
    planned = {one.name: one for one in plan(connections, LATER) if one.is_removed}
    removed = clean_up(connections, "tests", LATER)

    assert list_removed(removed, "run") == [runs[0]]
    assert planned[runs[0]].bytes == 2 * len(json.dumps({"a": 1}, indent=2))
    assert [bool(list_files(connections, run_id)) for run_id in runs] == [False, True, True]
    left = {run.run_id for run in StoredRuns(connections.settings.tracking_address).load(model)}
    assert left == {*runs[1:], by_hand.info.run_id}


def test_interrupted_removal_of_a_run_is_finished_by_the_next(connections: Connections, model: str) -> None:
    run_id = add_run(connections, model)
    stored = StoredRuns(connections.settings.tracking_address)
    (run,) = stored.load(model)
    stored.remove_artifact(run_id, "version")
    stored.remove_artifact(run_id, "never/there")

    assert list_removed(clean_up(connections, "tests", LATER), "run") == [run_id]
    stored.remove(run)
    assert (list_files(connections, run_id), stored.load(model)) == ([], [])


def test_version_that_becomes_needed_after_the_plan_stays(
    connections: Connections, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_versions(connections, model, 4)
    from jobs import clean_up as module

    measured = module._measure

    def promote_meanwhile(*arguments: object) -> list[Decision]:
        move(connections, model, 1)
        return measured(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_measure", promote_meanwhile)
    assert list_removed(clean_up(connections, "tests"), "version") == ["2"]
    assert list_versions(connections, model) == [1, 3, 4]
    with pytest.raises(NothingToRollBackTo):
        rollback(connections.engine, connections.registry, model, actor="tests")


def test_snapshot_without_a_run_goes_and_is_cut_again_under_the_same_digest(
    connections: Connections, model: str, tmp_path: Path
) -> None:
    declare_workloads(connections)
    bring_rows(connections, 200)
    contract = get_workload("prices").build_contract()
    cut = create_snapshot(connections.engine, contract, connections.tracking, tmp_path)
    file = Path(connections.settings.artifacts) / "snapshots" / f"prices-{cut.digest}.parquet"

    with connections.engine.begin() as connection:
        request_training(connection, "prices", cause="hand", actor="tests")
    assert list_removed(clean_up(connections, "tests", LATER), "snapshot") == []
    with connections.engine.begin() as connection:
        connection.execute(text("UPDATE trainings SET state = 'failed'"))
    assert list_removed(clean_up(connections, "tests"), "snapshot") == []
    assert file.exists()
    assert list_removed(clean_up(connections, "tests", LATER), "snapshot") == [cut.digest]
    assert not file.exists()

    again = create_snapshot(connections.engine, contract, connections.tracking, tmp_path)
    assert (again, file.exists()) == (cut, True)


def test_report_goes_and_its_finding_stays(connections: Connections, model: str) -> None:
    run_id = add_versions(connections, model, 1)[0]
    finding_id = uuid.uuid4()
    connections.tracking.log_document(run_id, {}, f"reports/{finding_id}/report.json")
    with connections.engine.begin() as connection:
        values = {"id": finding_id, "model": model, "version": 1, "subject": "drift", "outcome": "fine", "rows": 1}
        more = {"is_drifted": False, "reasons": [], "measure": {}, "report": {"large": 1}}
        uri = f"runs:/{run_id}/reports/{finding_id}/report.html"
        connection.execute(insert(findings).values(**values, **more, report_uri=uri))

    assert list_removed(clean_up(connections, "tests"), "report") == []
    assert list_removed(clean_up(connections, "tests", LATER), "report") == [str(finding_id)]
    with connections.engine.connect() as connection:
        row = connection.execute(text("SELECT outcome, report_uri, report FROM findings")).one()
    assert tuple(row) == ("fine", None, None)
    assert len(list_files(connections, run_id)) == 2


def test_raw_bytes_and_logs_go_by_the_settings(connections: Connections, model: str) -> None:
    declare_workloads(connections)
    bring_rows(connections, 200)
    logs = connections.settings.logs_folder / "trainings"
    logs.mkdir(parents=True)
    log = logs / f"{uuid.uuid4()}.1.log"
    log.write_text("fitted")
    os.utime(log, (0, 0))

    assert list_removed(clean_up(connections, "tests", LATER), "source") == []
    assert not log.exists()
    removed = clean_up(change_settings(connections, source_days=30), "tests", LATER)

    assert len(list_removed(removed, "source")) == 1
    with connections.engine.connect() as connection:
        counts = connection.execute(
            text("SELECT (SELECT count(*) FROM source_pieces), (SELECT count(*) FROM observations_prices)")
        ).one()
    assert tuple(counts) == (0, 200)


def test_nothing_is_removed_while_a_backup_is_made(connections: Connections, model: str) -> None:
    add_versions(connections, model, 4)
    with hold_keeping_lock(connections.database_url), pytest.raises(KeepingUnderWay):
        clean_up(connections, "tests")
    assert list_versions(connections, model) == [1, 2, 3, 4]
