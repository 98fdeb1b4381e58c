"""Small trainings of a workload of the test's own: its rows, its snapshot, its attempts."""

import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from core.connections import Connections
from core.trainings import Cause, Training, get_training, request_training, start_attempt
from core.verdicts import Verdict
from ingestion.importing import import_file
from ingestion.snapshots import SnapshotQuery, create_snapshot
from training.attempt import run_attempt
from workloads.declaration import GatePolicy, Workload
from workloads.prices.sample import write_sample
from workloads.prices.workload import WORKLOAD

SMALL = {"sequence_length": 8, "hidden_size": 4, "max_epochs": 2}
ROWS = 240
MINIMUM_ROWS = 20


def build_workload() -> Workload:
    """Workload `prices` under a name of its own, with a gate that few rows pass."""
    gate = GatePolicy(baseline_margin=0.05, minimum_rows=MINIMUM_ROWS)
    return replace(WORKLOAD, name=f"series_{uuid.uuid4().hex[:12]}", gate=gate)


def bring_rows(connections: Connections, workload: Workload, rows: int = ROWS) -> None:
    """Import that many rows of sample data."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_sample(path, rows=rows)
        import_file(connections.engine, workload.build_contract(SMALL), path, name=path.name, actor="tests")


def cut_snapshot(connections: Connections, workload: Workload, last_at: datetime | None = None) -> str:
    """The digest of a snapshot of the stored rows, to `last_at`."""
    with TemporaryDirectory() as folder:
        contract, query = workload.build_contract(SMALL), SnapshotQuery(last_at=last_at)
        return create_snapshot(connections.engine, contract, connections.tracking, Path(folder), query=query).digest


def request(
    connections: Connections,
    workload: Workload,
    digest: str,
    *,
    cause: Cause = "hand",
    finding_id: uuid.UUID | None = None,
    **parameters: object,
) -> Training:
    """A training that has its snapshot, with its first attempt taken."""
    with connections.engine.begin() as connection:
        training, is_new = request_training(
            connection,
            workload.name,
            cause=cause,
            actor="tests",
            parameters={**SMALL, **parameters},
            finding_id=finding_id,
            snapshot_digest=digest,
            is_enqueued=False,
        )
        assert is_new
        return start_attempt(connection, training.id)


def start_next_attempt(connections: Connections, training: Training) -> Training:
    """Take the training over, as another worker does."""
    with connections.engine.begin() as connection:
        return start_attempt(connection, training.id)


def load(connections: Connections, training: Training) -> Training:
    """The training as it now is."""
    with connections.engine.connect() as connection:
        return get_training(connection, training.id)


@dataclass(frozen=True)
class Attempted:
    """What an attempt ended with."""

    training: Training
    verdict: Verdict
    run_id: str


def attempt(connections: Connections, workload: Workload, training: Training) -> Attempted:
    """Carry the attempt out in this process."""
    run_id = connections.tracking.start_run(workload.name, None, {"millrace.training_id": str(training.id)})
    with TemporaryDirectory() as folder:
        verdict = run_attempt(connections, workload, training, run_id=run_id, folder=Path(folder))
    connections.tracking.finish_run(run_id, "FINISHED")
    return Attempted(load(connections, training), verdict, run_id)
