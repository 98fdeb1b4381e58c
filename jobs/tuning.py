"""A search from its snapshot to its pick: the trials are run by child processes, any number of them on one study."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from core.connections import Connections
from core.errors import ParameterRejected, TrainingFailed
from core.snapshots import load_snapshot
from ingestion.snapshots import create_snapshot
from jobs.process import read_tail, run_child
from jobs.training import PROJECT_FOLDER, build_environment
from training.parts import Columns
from training.picking import Tuned, conclude_study, get_picker
from training.studies import count_trials, find_study_snapshot, open_study
from training.tuning import list_objectives, run_trials
from workloads.declaration import Workload

_LOOK_S = 2.0
MOST_WORKERS = 64


@dataclass(frozen=True)
class Search:
    """What is asked for: the study has `trials` in the end, whoever ran them; empty fields mean the defaults."""

    study: str
    trials: int
    pick: str
    objectives: tuple[str, ...] = ()
    workers: int = 1


SearchReport = Callable[[int, int], None]
"""Called with the number of trials that have ended, and of those that are wanted."""


def tune(connections: Connections, workload: Workload, search: Search, run_id: str, report: SearchReport) -> Tuned:
    """Bring the study to its number of trials and pick one; logged under the run.

    Without a name the study is that of the workload and of the rows that are stored now: what is run again goes on
    with it, and new rows begin another. Raises ParameterRejected, SnapshotRejected, TrainingFailed.
    """
    objectives = list_objectives(workload, search.objectives)
    pick = search.pick or f"min_{objectives[0]}"
    get_picker(pick, objectives)
    if not 1 <= search.workers <= MOST_WORKERS:
        raise ParameterRejected("workers", search.workers, f"a whole number from 1 to {MOST_WORKERS}")
    if search.trials < 1:
        raise ParameterRejected("trials", search.trials, "a whole number from 1")
    digest = find_study_snapshot(connections, search.study) if search.study else None
    if digest is None:
        with TemporaryDirectory(prefix="millrace-snapshot-") as folder:
            contract = workload.build_contract()
            digest = create_snapshot(connections.engine, contract, connections.tracking, Path(folder)).digest
    name = search.study or f"{workload.name}-{digest[:8]}"
    tags = {"millrace.study": name, "millrace.snapshot_digest": digest}
    connections.tracking.set_tags(run_id, tags)
    with open_study(connections, name, objectives, digest) as study:

        def look() -> int:
            ended, _ = count_trials(study)
            report(ended, search.trials)
            connections.tracking.set_tags(run_id, {"millrace.progress": f"{ended} of {search.trials} trials"})
            return ended

        if look() < search.trials:
            asyncio.run(_run_workers(connections, workload, search, name, digest, objectives, run_id, look))
        if look() < search.trials:
            log = read_tail(_build_log_path(connections, name, 0))
            raise TrainingFailed(workload.name, "tune", f"every worker ended early; the first says: {log}")
        return conclude_study(connections.tracking, workload, study, objectives, pick, run_id)


async def _run_workers(
    connections: Connections,
    workload: Workload,
    search: Search,
    study: str,
    digest: str,
    objectives: Sequence[str],
    run_id: str,
    look: Callable[[], int],
) -> None:
    command = [sys.executable, "-m", "jobs.project", "tune", workload.name, f"--study={study}"]
    command += ["--trials", str(search.trials), "--objectives", ",".join(objectives)]
    command += ["--run", run_id, "--snapshot", digest]
    workers = [
        asyncio.create_task(
            run_child(
                [*command, "--worker", str(number)],
                build_environment(connections),
                folder=PROJECT_FOLDER,
                log_path=_build_log_path(connections, study, number),
                timeout_s=connections.settings.training_timeout_s,
            )
        )
        for number in range(search.workers)
    ]
    try:
        while not all(worker.done() for worker in workers):
            await asyncio.wait(workers, timeout=_LOOK_S)
            await asyncio.to_thread(look)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _build_log_path(connections: Connections, study: str, worker: int) -> Path:
    # A study's name is a person's own, and no path.
    plain = "".join(letter if letter.isalnum() else "_" for letter in study)[:80]
    return connections.settings.logs_folder / "tuning" / f"{plain}.{worker}.log"


def work_on_study(
    connections: Connections,
    workload: Workload,
    *,
    study: str,
    digest: str,
    trials: int,
    objectives: Sequence[str],
    run_id: str,
    worker: int,
) -> None:
    """What one child does: run trials until the study has its number."""
    run_trials(
        connections,
        workload,
        _load_columns(connections, digest),
        study_name=study,
        snapshot=digest,
        objectives=objectives,
        trials=trials,
        run_id=run_id,
        worker=worker,
    )


def _load_columns(connections: Connections, digest: str) -> Columns:
    with TemporaryDirectory(prefix="millrace-snapshot-") as folder, connections.engine.connect() as connection:
        return load_snapshot(connection, digest, connections.tracking, Path(folder))
