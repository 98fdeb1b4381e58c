"""What the platform's own part of a training run takes, beside plain Keras and MLflow's autologging.

The same LSTM on the same windows, with the same seed and number of epochs, three times against one tracking server on
the embedded PostgreSQL: bare `model.fit`; `model.fit` under `mlflow.keras.autolog()` with its default `log_models`;
and a whole attempt at a training (evaluation with intervals and backtest, plots, export, parity, reference, version,
registration, gate, promotion). Of the last two the time of the fit itself is taken away. The processes' start is in
none of them. Medians of `--rounds`.
"""

import argparse
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import keras
import mlflow
import numpy as np

from core.connections import Connections
from core.local_platform import open_platform
from core.settings import load_settings
from core.snapshots import load_snapshot
from core.trainings import get_training, request_training, start_attempt
from ingestion.importing import import_file
from ingestion.snapshots import create_snapshot
from training import variants
from training.attempt import run_attempt
from training.fit import Fitted, fit_model, make_deterministic
from training.parts import Parts
from training.sequence import split_columns
from workloads.declaration import GatePolicy, Workload
from workloads.prices.sample import write_sample
from workloads.prices.workload import WORKLOAD

EPOCHS = 5
ROWS = 1_500
_PORT = 5911


def build_workload() -> Workload:
    """Workload `prices` under a name of its own, with a gate that a short fit passes."""
    return replace(WORKLOAD, name=f"bench_{uuid.uuid4().hex[:8]}", gate=GatePolicy(baseline_margin=0.5))


@contextmanager
def _timed_fit(taken: list[float]) -> Iterator[None]:
    """Note how long fitting takes while the platform trains."""

    def fit_timed(*arguments: Any, **named: Any) -> Fitted:
        began = time.perf_counter()
        try:
            return fit_model(*arguments, **named)
        finally:
            taken.append(time.perf_counter() - began)

    with patch.object(variants, "fit_model", fit_timed):
        yield


def measure_platform(connections: Connections, workload: Workload, digest: str) -> float:
    """Seconds of an attempt beside its fit."""
    with connections.engine.begin() as connection:
        training, _ = request_training(
            connection,
            workload.name,
            cause="project",
            actor="benchmark",
            parameters={"max_epochs": EPOCHS, "patience": EPOCHS},
            snapshot_digest=digest,
            is_enqueued=False,
        )
        training = start_attempt(connection, training.id)
    fitted: list[float] = []
    began = time.perf_counter()
    run_id = connections.tracking.start_run(workload.name, None, {})
    with tempfile.TemporaryDirectory() as folder, _timed_fit(fitted):
        run_attempt(connections, workload, training, run_id=run_id, folder=Path(folder))
    connections.tracking.finish_run(run_id, "FINISHED")
    taken = time.perf_counter() - began
    with connections.engine.connect() as connection:
        if get_training(connection, training.id).state != "finished":
            raise RuntimeError("the training did not finish")
    return taken - sum(fitted)


def fit_plainly(workload: Workload, parts: Parts) -> float:
    """Seconds of building and fitting the model with Keras alone."""
    parameters = workload.resolve_parameters({"max_epochs": EPOCHS})
    began = time.perf_counter()
    make_deterministic(int(parameters["seed"]))
    model: keras.Model = workload.load_function("model")(workload.build_contract(), parameters, parts.train.inputs)
    model.fit(
        parts.train.inputs,
        parts.train.targets.astype(np.float32),
        validation_data=(parts.validation.inputs, parts.validation.targets.astype(np.float32)),
        epochs=EPOCHS,
        batch_size=int(parameters["batch_size"]),
        verbose=0,
    )
    return time.perf_counter() - began


def measure_autolog(connections: Connections, workload: Workload, parts: Parts, bare_s: float) -> float:
    """Seconds of the same fit under autologging, less `bare_s`."""
    connections.tracking.activate()
    mlflow.set_experiment(workload.name)
    mlflow.keras.autolog()
    began = time.perf_counter()
    with mlflow.start_run():
        fit_plainly(workload, parts)
    taken = time.perf_counter() - began
    mlflow.keras.autolog(disable=True)
    return taken - bare_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as place:
        Path(place).chmod(0o755)
        settings = load_settings(
            home=Path(place) / "home", artifacts=str(Path(place) / "mlruns"), tracking_port=_PORT, tracking_uri=None
        )
        with open_platform(settings) as connections:
            bare, platform, autolog = [], [], []
            for _ in range(rounds):
                workload = build_workload()
                contract = workload.build_contract()
                path = Path(place) / "rows.csv"
                write_sample(path, rows=ROWS)
                import_file(connections.engine, contract, path, name=path.name, actor="benchmark")
                work = Path(tempfile.mkdtemp(dir=place))
                digest = create_snapshot(connections.engine, contract, connections.tracking, work).digest
                with connections.engine.connect() as connection:
                    columns = load_snapshot(connection, digest, connections.tracking, work)
                parts = split_columns(contract, columns, workload.split)
                bare.append(fit_plainly(workload, parts))
                platform.append(measure_platform(connections, workload, digest))
                autolog.append(measure_autolog(connections, workload, parts, bare[-1]))
                print(
                    f"bare fit {bare[-1]:.2f} s, platform {platform[-1]:.2f} s, autolog {autolog[-1]:.2f} s", flush=True
                )
    print(f"platform_s={median(platform):.2f} bare_fit_s={median(bare):.2f} autolog_s={median(autolog):.2f}")


if __name__ == "__main__":
    main()
