"""Trainings and their jobs, as other parts of the platform leave them in the database."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from core.connections import Connections
from core.trainings import Training, get_training, request_training
from ingestion.importing import import_file
from workloads.catalogue import get_workload
from workloads.prices.sample import write_sample

CommandBuilder = Callable[[Connections, Training], list[str]]


def change_settings(connections: Connections, **changes: object) -> Connections:
    """The same connections under other settings."""
    return replace(connections, settings=connections.settings.model_copy(update=changes))


def bring_rows(connections: Connections, rows: int) -> None:
    """Import that many rows of workload `prices`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_sample(path, rows=rows)
        contract = get_workload("prices").build_contract()
        import_file(connections.engine, contract, path, name=path.name, actor="tests")


def request(
    connections: Connections,
    model: str = "prices",
    *,
    is_enqueued: bool = True,
    parameters: Mapping[str, object] | None = None,
) -> Training:
    """A queued training."""
    with connections.engine.begin() as connection:
        training, _ = request_training(
            connection, model, cause="hand", actor="tests", parameters=parameters, is_enqueued=is_enqueued
        )
        return training


def load(connections: Connections, training_id: uuid.UUID) -> Training:
    """The training as it now is."""
    with connections.engine.connect() as connection:
        return get_training(connection, training_id)


def load_jobs(connections: Connections, training_id: uuid.UUID) -> Sequence[tuple[int, str]]:
    """Number and status of every job of the training, oldest first."""
    statement = text(
        "SELECT id, status::text FROM procrastinate_jobs WHERE args->>'training_id' = :id AND task_name = 'train'"
        " ORDER BY id"
    )
    with connections.engine.connect() as connection:
        return [(row.id, row.status) for row in connection.execute(statement, {"id": str(training_id)})]
