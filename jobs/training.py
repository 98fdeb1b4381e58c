"""Trainings as jobs: prepare an attempt, carry it out in a child process, settle what became of it."""

import asyncio
import logging
import os
import sys
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

import jobs
from core.connections import Connections
from core.errors import (
    AttemptSuperseded,
    InvalidInput,
    MillraceError,
    SettingsRejected,
    StepFailed,
    Unavailable,
    WorkloadNotFound,
)
from core.job_errors import MemoryLimitPassed, TimeLimitPassed, TrainingEnded
from core.job_lines import append_lines
from core.masking import build_masker
from core.reconciliation import reconcile
from core.tracking_server import is_tracking_ready
from core.trainings import (
    Training,
    fail_training,
    finish_training,
    get_training,
    is_training_owned,
    note_waiting,
    record_step,
    start_attempt,
)
from core.transitions import has_finished_transition
from ingestion.snapshots import create_snapshot
from jobs.process import read_tail
from jobs.settling import settle_training
from jobs.watching import JobTakenAway, WatchedJob, run_watched
from workloads.catalogue import get_workload

logger = logging.getLogger(__name__)

_EXPERIMENT_VARIABLES = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
_TRACKING_LOOK_S = 5.0

PROJECT_FOLDER = Path(jobs.__file__).parent.parent
"""The folder with the MLproject file."""

FINAL_ERRORS = (InvalidInput, StepFailed, SettingsRejected, WorkloadNotFound)
"""What another attempt would meet again: the training has failed."""


def prepare_attempt(connections: Connections, training_id: uuid.UUID, allowed_attempts: int) -> Training:
    """Take the next fencing number and see that the training has its snapshot; returns it as it then is.

    A training that has one keeps it: every attempt trains on the same rows. A training that is no longer open, or has
    had its attempts, is returned as it is. If the workload is away or the stored rows make no training set, the
    training has failed and the error is raised.
    """
    with connections.engine.begin() as connection:
        training = start_attempt(connection, training_id)
        if training.is_open and training.attempt <= allowed_attempts:
            note = f"attempt {training.attempt} of at most {allowed_attempts}, on {training.worker}"
            append_lines(connection, training.id, training.attempt, [note])
    if training.is_open and training.attempt > allowed_attempts:
        return _give_up(connections, training, f"{allowed_attempts} attempts ended without a verdict")
    if not training.is_open or training.snapshot_digest is not None:
        return training
    try:
        contract = get_workload(training.model).build_contract()
        with TemporaryDirectory(prefix="millrace-snapshot-") as folder:
            snapshot = create_snapshot(connections.engine, contract, connections.tracking, Path(folder))
    except FINAL_ERRORS as error:
        with connections.engine.begin() as connection:
            fail_training(connection, training.id, training.attempt, error.sentence)
        raise
    with connections.engine.begin() as connection:
        record_step(
            connection,
            training.id,
            training.attempt,
            step="snapshot",
            progress=0.01,
            snapshot_digest=snapshot.digest,
        )
        return get_training(connection, training.id)


async def carry_out(connections: Connections, training_id: uuid.UUID) -> Training:
    """Carry the training out to its end, or leave it to the worker that took it over; returns it as it then is.

    A person's own run, which the training was given, ends as failed where the training does.
    """
    ended = await _carry_out(connections, training_id)
    if ended.state == "failed" and ended.cause == "project" and ended.run_id is not None:
        await asyncio.to_thread(connections.tracking.fail_run, ended.run_id, ended.error or "")
    return ended


async def _carry_out(connections: Connections, training_id: uuid.UUID) -> Training:
    """Attempt the training in child processes until it has ended, at most `training_attempts` times.

    Every round takes a fencing number before it does anything that may fail: no error, whatever it is, can bring a
    training back more often than that. Rounds that only found something away do not count. A training that another
    worker took over meanwhile is left to it; one that is cancelled is stopped. What it left half done in MLflow is
    cleared away, now or, where MLflow is away, by the reconciler.
    """
    training = await _attempt_until_ended(connections, training_id)
    if not training.is_open:
        try:
            await asyncio.to_thread(settle_training, connections, training)
        except Unavailable as error:
            logger.warning("settling waits", extra={"training": str(training_id), "reason": error.sentence})
    return training


async def _attempt_until_ended(connections: Connections, training_id: uuid.UUID) -> Training:
    allowed = connections.settings.training_attempts
    while True:
        if not await _wait_for_tracking(connections, training_id):
            return await asyncio.to_thread(_load, connections, training_id)
        try:
            training = await asyncio.to_thread(prepare_attempt, connections, training_id, allowed)
        except FINAL_ERRORS as error:
            logger.warning("training failed", extra={"training": str(training_id), "reason": error.sentence})
            return await asyncio.to_thread(_load, connections, training_id)
        except Unavailable as error:
            allowed += 1
            await _pause(connections, training_id, error.sentence)
            continue
        if not training.is_open:
            return training
        if training.attempt > 1:
            # The run of an attempt whose process was killed still counts as running.
            await asyncio.to_thread(connections.tracking.reap_runs, training.model, str(training.id))
        own_attempt = training.attempt
        log_path = build_log_path(connections, training)
        try:
            code = await _run_attempt(connections, training, log_path)
        except JobTakenAway:
            return await asyncio.to_thread(_load, connections, training_id)
        except (TimeLimitPassed, MemoryLimitPassed) as error:
            return await asyncio.to_thread(_give_up, connections, training, error.sentence)
        present = await asyncio.to_thread(_load, connections, training_id)
        if not present.is_open or present.attempt != own_attempt:
            return present
        logger.warning(
            "training attempt ended without a verdict",
            extra={"training": str(training_id), "attempt": own_attempt, "code": code, "step": present.step},
        )
        if present.is_waiting:
            allowed += 1
            await asyncio.sleep(_TRACKING_LOOK_S)
        elif own_attempt >= allowed:
            last_words = build_masker(connections.settings, connections.database_url).mask(read_tail(log_path))
            error_text = f"attempt {own_attempt} of {allowed} ended with code {code}: {last_words}"
            return await asyncio.to_thread(_give_up, connections, training, error_text)


async def _run_attempt(connections: Connections, training: Training, log_path: Path) -> int:
    settings, limits = connections.settings, get_workload(training.model).limits
    job = WatchedJob(
        id=training.id,
        attempt=training.attempt,
        is_owned=lambda connection: is_training_owned(connection, training.id, training.attempt),
        timeout_s=limits.timeout_s or settings.training_timeout_s,
        timeout_setting="MILLRACE_TRAINING_TIMEOUT_S",
        memory_max_bytes=limits.memory_max_bytes or settings.job_memory_max_bytes,
    )
    return await run_watched(
        connections,
        job,
        _build_command(connections, training),
        build_environment(connections),
        folder=PROJECT_FOLDER,
        log_path=log_path,
    )


def _load(connections: Connections, training_id: uuid.UUID) -> Training:
    with connections.engine.connect() as connection:
        return get_training(connection, training_id)


async def _pause(connections: Connections, training_id: uuid.UUID, reason: str) -> None:
    logger.warning("training waits", extra={"training": str(training_id), "reason": reason})
    await asyncio.to_thread(_note, connections, training_id, reason)
    await asyncio.sleep(_TRACKING_LOOK_S)


def _note(connections: Connections, training_id: uuid.UUID, reason: str) -> None:
    with connections.engine.begin() as connection:
        note_waiting(connection, training_id, reason)


async def _wait_for_tracking(connections: Connections, training_id: uuid.UUID) -> bool:
    """Wait, and say so, while the tracking server is away: an attempt without it would be lost.

    Returns whether the training is still open then.
    """
    address = connections.settings.tracking_address
    while not await asyncio.to_thread(is_tracking_ready, address):
        await _pause(connections, training_id, f"the tracking server at {address} does not answer")
        if not (await asyncio.to_thread(_load, connections, training_id)).is_open:
            return False
    return True


def build_log_path(connections: Connections, training: Training) -> Path:
    """Where the output of this attempt is kept."""
    return connections.settings.logs_folder / "trainings" / f"{training.id}.{training.attempt}.log"


def _give_up(connections: Connections, training: Training, error: str) -> Training:
    """End the training after its last attempt: as failed, unless its verdict was carried out before that one died."""
    is_done = False
    if training.verdict_id is not None or _load(connections, training.id).verdict_id is not None:
        reconcile(connections.engine, connections.registry)
    with connections.engine.begin() as connection:
        present = get_training(connection, training.id)
        if present.verdict_id is not None:
            is_done = has_finished_transition(connection, present.verdict_id)
        try:
            if is_done:
                finish_training(connection, training.id, training.attempt)
            else:
                fail_training(connection, training.id, training.attempt, error)
        except (AttemptSuperseded, TrainingEnded) as other:
            logger.warning("training was ended otherwise", extra={"reason": other.sentence})
        return get_training(connection, training.id)


def _build_command(connections: Connections, training: Training) -> list[str]:
    settings = connections.settings
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECT_FOLDER)]
    command += ["--entry-point", "train", "--experiment-name", training.model, "--env-manager", "local"]
    command += ["--backend", settings.project_backend]
    if settings.project_backend_config is not None:
        command += ["--backend-config", str(settings.project_backend_config)]
    if training.cause == "project" and training.run_id is not None:
        command += ["--run-id", training.run_id]
    for name, value in (("workload", training.model), ("training", training.id), ("attempt", training.attempt)):
        command += ["--param-list", f"{name}={value}"]
    return command


def build_environment(connections: Connections) -> dict[str, str]:
    """The environment of a child process of the platform: this process's own, and what is the platform's."""
    binaries = str(Path(sys.executable).parent)
    # Each command says the experiment that it means, and MLflow refuses to be told two.
    own = {name: value for name, value in os.environ.items() if name not in _EXPERIMENT_VARIABLES}
    return own | {
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(PROJECT_FOLDER),
        "DATABASE_URL": connections.database_url,
        "MILLRACE_HOME": str(connections.settings.home),
        "MLFLOW_TRACKING_URI": connections.settings.tracking_address,
        # TensorFlow explains its choice of kernels at every start.
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        # What it prints is followed line by line.
        "PYTHONUNBUFFERED": "1",
    }


def settle_error(connections: Connections, training: Training, error: MillraceError) -> None:
    """Record an error that ended an attempt: one that would come again ends the training as failed.

    For what is away it is noted that the training waits for it, so that this attempt does not count.
    """
    with connections.engine.begin() as connection:
        if isinstance(error, FINAL_ERRORS):
            fail_training(connection, training.id, training.attempt, error.sentence)
        elif isinstance(error, Unavailable):
            note_waiting(connection, training.id, error.sentence)
