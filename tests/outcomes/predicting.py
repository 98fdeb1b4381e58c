"""Predictions as serving ships them, and contracts of the kinds of workloads that have outcomes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from core.contract import Column, Contract, Key, Task
from core.contracts import write_contracts
from core.evaluations import Evaluation, store_evaluation
from core.predicted_keys import PredictedKey
from serving.prediction_ids import draw_ids
from serving.records import Entry, now_us
from serving.shipping import store_entries

HOUR_S = 3600.0
START = datetime(2026, 1, 5, tzinfo=UTC)


def build_series(model: str, horizon: int = 1) -> Contract:
    """Hourly readings of machines; windows of 4."""
    return Contract(
        model=model,
        description="readings",
        kind="sequence",
        columns=(
            Column(name="machine", dtype="text", default="m1"),
            Column(name="at", dtype="time"),
            Column(name="reading", dtype="float", unit="degrees", minimum=-100.0, maximum=1000.0),
        ),
        key=Key(entity="machine", time="at"),
        target="reading",
        features=("reading",),
        steps=4,
        step_s=HOUR_S,
        horizon=horizon,
        gaps="allow",
    )


def build_table(model: str, task: Task = "binary", classes: tuple[str, ...] = ()) -> Contract:
    """Cars under their id, with one number and one category."""
    return Contract(
        model=model,
        description="cars",
        kind="tabular",
        columns=(
            Column(name="car", dtype="text"),
            Column(name="findings", dtype="float", minimum=0.0),
            Column(name="colour", dtype="text"),
            Column(name="failed", dtype="text" if classes else "float"),
        ),
        key=Key(id="car"),
        target="failed",
        features=("findings", "colour"),
        task=task,
        classes=classes,
        vocabularies={"colour": ("blue", "red")},
    )


def declare(engine: Engine, contract: Contract, metric: str, **promised: object) -> None:
    """Write the contract, and what version 1 promises."""
    fields = {"error": 1.0, "lower": 0.9, "upper": 1.1, "baseline_name": "first", "baseline_error": 2.0}
    fields |= {"confidence": 0.95, "target_means": None} | promised
    evaluation = Evaluation(model=contract.model, version=1, metric=metric, contract=contract, **fields)  # type: ignore[arg-type]
    with engine.begin() as connection:
        write_contracts(connection, [contract])
        store_evaluation(connection, evaluation)


def ship(
    engine: Engine,
    folder: Path,
    model: str,
    outputs: NDArray[np.float64],
    *,
    inputs: NDArray[np.float64] | None = None,
    keys: Sequence[PredictedKey | None] | None = None,
    at: datetime | None = None,
    version: int = 1,
) -> list[UUID]:
    """Ship one request with `outputs (rows, outputs)`; the ids of its rows."""
    rows = len(outputs)
    entry = Entry(
        at_us=now_us() if at is None else round(at.timestamp() * 1e6),
        model=model,
        version=version,
        request_id="r",
        ids=draw_ids(rows),
        inputs=np.ones((rows, 4)) if inputs is None else inputs,
        monitored=np.zeros((rows, 0)),
        outputs=outputs,
        keys=None if keys is None else list(keys),
    )
    with engine.begin() as connection:
        store_entries(connection, [entry], folder)
    return entry.ids


def hours(count: int, machine: str = "m1", first: int = 0) -> list[PredictedKey]:
    """Keys of hours in a row."""
    return [PredictedKey(machine, START + timedelta(hours=first + hour)) for hour in range(count)]


def load_joined(engine: Engine, model: str) -> list[tuple[float, float]]:
    """What was predicted and what came, in the order of the outcomes."""
    query = "SELECT predicted, value FROM joined_outcomes WHERE model = :model ORDER BY outcome_at, predicted_at, step"
    with engine.connect() as connection:
        return [(row[0], row[1]) for row in connection.execute(text(query), {"model": model})]
