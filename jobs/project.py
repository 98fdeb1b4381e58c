"""The entry points of the MLproject file: what `mlflow run . -e NAME` starts, by hand or from the worker.

Each loads what it needs itself: TensorFlow takes longer to load than a check takes.
"""

import argparse
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from core.checks import fail_check, finish_check
from core.connections import Connections
from core.errors import AttemptSuperseded, MillraceError, NotReproduced, Unavailable
from core.job_errors import TrainingEnded
from core.local_platform import open_platform
from core.logs import configure_logs
from core.resolution import find_target_version
from core.settings import Settings, load_settings
from core.snapshots import load_snapshot
from core.trainings import CONTINUE, Training, get_training, hold_alive, request_training
from ingestion.snapshots import create_snapshot
from jobs.checking import note_failed_check, run_check, run_report
from jobs.training import prepare_attempt, settle_error
from workloads.catalogue import get_workload
from workloads.declaration import Workload

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_TRY_AGAIN = 75
"""EX_TEMPFAIL: something that is needed was away, another attempt may succeed."""

_RUN_ID = "MLFLOW_RUN_ID"
_TRACKING_URI = "MLFLOW_TRACKING_URI"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one entry point; the exit code says whether it succeeded and whether trying again may help."""
    options = _build_parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        settings = _load_settings()
        configure_logs(settings, f"project-{options.entry}")
        workload = get_workload(options.workload)
        with open_platform(settings) as connections:
            ENTRIES[options.entry](connections, workload, options)
    except MillraceError as error:
        console.print(error.sentence, style="red", markup=False)
        return EXIT_TRY_AGAIN if isinstance(error, Unavailable) else EXIT_FAILED
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.project", description=__doc__)
    entries = parser.add_subparsers(dest="entry", required=True)
    for name in ENTRIES:
        entry = entries.add_parser(name)
        entry.add_argument("workload")
        if name == "train":
            entry.add_argument("--training", default="")
            entry.add_argument("--attempt", type=float, default=0)
        if name == "tune":
            entry.add_argument("--trials", type=float, default=20)
            entry.add_argument("--study", default="")
            entry.add_argument("--pick", default="")
            entry.add_argument("--objectives", default="")
            entry.add_argument("--workers", type=float, default=1)
            # Set for the children that run the trials.
            entry.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)
            entry.add_argument("--run", default="", help=argparse.SUPPRESS)
            entry.add_argument("--snapshot", default="", help=argparse.SUPPRESS)
        if name == "check":
            # Set by the worker; by hand the check is no job.
            entry.add_argument("--job", type=uuid.UUID, default=None, help=argparse.SUPPRESS)
        if name == "report":
            entry.add_argument("--finding", type=uuid.UUID, required=True)
        if name in ("evaluate", "reproduce"):
            entry.add_argument("--version", default="Production")
    return parser


def _load_settings() -> Settings:
    """The settings; a tracking address that is not a server's is MLflow's default store, not a choice of ours."""
    given = os.environ.get(_TRACKING_URI, "")
    if given and not given.startswith(("http://", "https://")):
        del os.environ[_TRACKING_URI]
        os.environ.pop(_RUN_ID, None)
        settings = load_settings()
        logger.warning(
            "MLFLOW_TRACKING_URI is not the platform's tracking server; the run is made there",
            extra={"given": given.split(":")[0], "used": settings.tracking_address},
        )
        return settings
    return load_settings()


def _train(connections: Connections, workload: Workload, options: argparse.Namespace) -> None:
    if options.training:
        with connections.engine.connect() as connection:
            training = get_training(connection, uuid.UUID(options.training))
        _attempt(connections, workload, training, attempt=int(options.attempt))
    else:
        _train_by_hand(connections, workload, {})


def _retrain(connections: Connections, workload: Workload, _options: argparse.Namespace) -> None:
    _train_by_hand(connections, workload, {CONTINUE: 1})


def _train_by_hand(connections: Connections, workload: Workload, parameters: Mapping[str, object]) -> None:
    """A training of a person's own `mlflow run`: recorded as every other, carried out by this process."""
    console = Console()
    with connections.engine.begin() as connection:
        training, is_new = request_training(
            connection,
            workload.name,
            cause="project",
            actor=os.environ.get("USER", "local"),
            parameters=parameters,
            is_enqueued=False,
        )
    if not is_new:
        console.print(f"Training {training.id} of {workload.name} is already {training.state}; nothing was started.")
        return
    with hold_alive(connections.engine, training.id):
        training = prepare_attempt(connections, training.id, connections.settings.training_attempts)
        _attempt(connections, workload, training, attempt=training.attempt)


def _attempt(connections: Connections, workload: Workload, training: Training, *, attempt: int) -> None:
    from training.attempt import run_attempt

    tracking = connections.tracking
    tags = {
        "millrace.training_id": str(training.id),
        "millrace.attempt": str(attempt),
        "millrace.cause": training.cause,
        "millrace.snapshot_digest": str(training.snapshot_digest),
    }
    run_id = tracking.start_run(workload.name, os.environ.get(_RUN_ID), tags)
    owned = Training(**{**training.__dict__, "attempt": attempt})
    status = "FAILED"
    try:
        with TemporaryDirectory(prefix="millrace-training-") as folder:
            verdict = run_attempt(connections, workload, owned, run_id=run_id, folder=Path(folder))
        with connections.engine.connect() as connection:
            # One that only carried out the verdict of an earlier attempt leaves the training that attempt's run.
            is_of_training = get_training(connection, training.id).run_id == run_id
        status = "FINISHED" if is_of_training else "KILLED"
    except (AttemptSuperseded, TrainingEnded):
        status = "KILLED"
        raise
    except MillraceError as error:
        settle_error(connections, owned, error)
        tracking.set_tags(run_id, {"millrace.error": error.sentence[:5000]})
        raise
    finally:
        tracking.finish_run(run_id, status)
    Console().print(
        f"{workload.name} version {verdict.version}: {verdict.outcome}, {verdict.reason}", markup=False, highlight=False
    )


def _tune(connections: Connections, workload: Workload, options: argparse.Namespace) -> None:
    from jobs.tuning import Search, tune, work_on_study

    objectives = tuple(name for name in options.objectives.split(",") if name)
    if options.worker is not None:
        work_on_study(
            connections,
            workload,
            study=options.study,
            digest=options.snapshot,
            trials=int(options.trials),
            objectives=objectives,
            run_id=options.run,
            worker=options.worker,
        )
        return
    search = Search(options.study, int(options.trials), options.pick, objectives, int(options.workers))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _started_run(connections, workload, "tune") as run_id,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("trials", total=search.trials)
        tuned = tune(
            connections,
            workload,
            search,
            run_id,
            lambda ended, wanted: progress.update(bar, completed=min(ended, wanted)),
        )
    console = Console()
    console.print(tuned.front_csv, markup=False, highlight=False, soft_wrap=True)
    settings = " ".join(f"--set {name}={value:.6g}" for name, value in tuned.parameters.items())
    console.print(
        f"Study {tuned.study}: {tuned.trials} trials, {tuned.pruned} pruned; errors of the pick {dict(tuned.errors)}\n"
        f"millrace train {workload.name} {settings}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _evaluate(connections: Connections, workload: Workload, options: argparse.Namespace) -> None:
    from training.rescoring import log_rescore, rescore_version

    version = find_target_version(connections, workload.name, options.version)
    columns = _load_columns(connections, workload)
    with _started_run(connections, workload, "evaluate") as run_id:
        rescore = rescore_version(connections, workload.name, version, columns)
        log_rescore(connections, run_id, rescore)
    Console().print(
        f"{workload.name} version {rescore.version} on {rescore.rows} rows: {dict(rescore.model)}, "
        f"baselines {dict(rescore.baselines)}",
        markup=False,
    )


def _reproduce(connections: Connections, workload: Workload, options: argparse.Namespace) -> None:
    from training.reproducing import reproduce_version

    version = find_target_version(connections, workload.name, options.version)
    found = reproduce_version(connections, workload, version)
    if not found.is_equal:
        raise NotReproduced(workload.name, version, found.difference, found.reasons)
    Console().print(
        f"{workload.name} version {version}: trained again from its snapshot, it predicts the same on {found.rows} "
        f"hold-out rows (largest relative difference {found.difference:.3g})"
        + "".join(f"; {reason}" for reason in found.reasons),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _load_columns(connections: Connections, workload: Workload) -> Mapping[str, NDArray[np.generic]]:
    """The stored rows, through a snapshot, so that what was looked at is kept."""
    with TemporaryDirectory(prefix="millrace-snapshot-") as folder:
        work = Path(folder)
        snapshot = create_snapshot(connections.engine, workload.build_contract(), connections.tracking, work)
        with connections.engine.connect() as connection:
            return load_snapshot(connection, snapshot.digest, connections.tracking, work)


@contextmanager
def _started_run(connections: Connections, workload: Workload, entry: str) -> Iterator[str]:
    tracking = connections.tracking
    run_id = tracking.start_run(workload.name, os.environ.get(_RUN_ID), {"millrace.entry": entry})
    status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    finally:
        tracking.finish_run(run_id, status)


def _check(connections: Connections, workload: Workload, options: argparse.Namespace) -> None:
    try:
        # A check that was killed half-way and runs again counts once.
        key = None if options.job is None else f"job {options.job}"
        outcome = run_check(connections, workload, key=key)
    except MillraceError as error:
        if options.job is not None:
            with connections.engine.begin() as connection:
                fail_check(connection, options.job, error.sentence)
            note_failed_check(connections, workload.name, f"job {options.job}", error.sentence)
        raise
    if options.job is not None:
        with connections.engine.begin() as connection:
            finish_check(connection, options.job, outcome.id)
    Console().print(f"{workload.name}: {outcome.outcome}, {'; '.join(outcome.reasons)}", markup=False)


def _report(connections: Connections, workload: Workload, options: argparse.Namespace) -> None:
    run_report(connections, workload, options.finding)


ENTRIES: Mapping[str, Callable[[Connections, Workload, argparse.Namespace], None]] = {
    "train": _train,
    "tune": _tune,
    "evaluate": _evaluate,
    "reproduce": _reproduce,
    "retrain": _retrain,
    "check": _check,
    "report": _report,
}

if __name__ == "__main__":
    sys.exit(main())
