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
from core.errors import InvalidInput, MillraceError, SettingsRejected, StepFailed, Unavailable, WorkloadNotFound
from core.tracking_server import is_tracking_ready
from core.trainings import (
    Training,
    fail_training,
    get_training,
    note_waiting,
    record_step,
    start_attempt,
)
from ingestion.snapshots import create_snapshot
from jobs.process import read_tail, run_child
from workloads.catalogue import get_workload

logger = logging.getLogger(__name__)

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
        if training.is_open and training.attempt > allowed_attempts:
            reason = f"{allowed_attempts} attempts ended without a verdict"
            fail_training(connection, training.id, training.attempt, reason)
            training = get_training(connection, training.id)
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
    """Attempt the training in child processes until it has ended, at most `training_attempts` times.

    Every round takes a fencing number before it does anything that may fail: no error, whatever it is, can bring a
    training back more often than that. Rounds that only found something away do not count. A training that another
    worker took over meanwhile is left to it.
    """
    settings = connections.settings
    allowed = settings.training_attempts
    while True:
        await _wait_for_tracking(connections, training_id)
        try:
            training = await asyncio.to_thread(prepare_attempt, connections, training_id, allowed)
        except FINAL_ERRORS as error:
            logger.warning("training failed", extra={"training": str(training_id), "reason": error.sentence})
            return await asyncio.to_thread(_load, connections, training_id)
        except Unavailable as error:
            allowed += 1
            await _pause(connections, training_id, error.sentence)
            continue
        if training.attempt > 1:
            # The run of an attempt whose process was killed still counts as running.
            await asyncio.to_thread(connections.tracking.reap_runs, training.model, str(training.id))
        if not training.is_open:
            return training
        own_attempt = training.attempt
        log_path = build_log_path(connections, training)
        try:
            code = await run_child(
                _build_command(connections, training),
                build_environment(connections),
                folder=PROJECT_FOLDER,
                log_path=log_path,
                timeout_s=settings.training_timeout_s,
            )
        except TimeoutError:
            error_text = f"it took longer than {settings.training_timeout_s:g} s"
            return await asyncio.to_thread(_fail, connections, training, error_text)
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
            error_text = f"attempt {own_attempt} of {allowed} ended with code {code}: {read_tail(log_path)}"
            return await asyncio.to_thread(_fail, connections, training, error_text)


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


async def _wait_for_tracking(connections: Connections, training_id: uuid.UUID) -> None:
    """Wait, and say so, while the tracking server is away: an attempt without it would be lost."""
    address = connections.settings.tracking_address
    while not await asyncio.to_thread(is_tracking_ready, address):
        await _pause(connections, training_id, f"the tracking server at {address} does not answer")


def build_log_path(connections: Connections, training: Training) -> Path:
    """Where the output of this attempt is kept."""
    return connections.settings.logs_folder / "trainings" / f"{training.id}.{training.attempt}.log"


def _fail(connections: Connections, training: Training, error: str) -> Training:
    with connections.engine.begin() as connection:
        fail_training(connection, training.id, training.attempt, error)
        failed = get_training(connection, training.id)
    connections.tracking.reap_runs(training.model, str(training.id))
    return failed


def _build_command(connections: Connections, training: Training) -> list[str]:
    settings = connections.settings
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECT_FOLDER)]
    command += ["--entry-point", "train", "--experiment-name", training.model, "--env-manager", "local"]
    command += ["--backend", settings.project_backend]
    if settings.project_backend_config is not None:
        command += ["--backend-config", str(settings.project_backend_config)]
    for name, value in (("workload", training.model), ("training", training.id), ("attempt", training.attempt)):
        command += ["--param-list", f"{name}={value}"]
    return command


def build_environment(connections: Connections) -> dict[str, str]:
    """What a child process of the platform has in its environment beside the worker's own."""
    binaries = str(Path(sys.executable).parent)
    return {
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(PROJECT_FOLDER),
        "DATABASE_URL": connections.database_url,
        "MILLRACE_HOME": str(connections.settings.home),
        "MLFLOW_TRACKING_URI": connections.settings.tracking_address,
        # TensorFlow explains its choice of kernels at every start.
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
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
