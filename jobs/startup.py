"""What the platform does with the catalogue when it starts."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from core.connections import Connections
from core.contracts import write_contracts
from ingestion.importing import ImportResult, import_file
from ingestion.store import count_observations, is_prepared, lock_observations, prepare_table
from workloads.catalogue import load_catalogue


def declare_workloads(connections: Connections) -> None:
    """Write every workload's contract to the database and see that its table of observations is there."""
    contracts = [workload.build_contract() for workload in load_catalogue().values()]
    with connections.engine.begin() as connection:
        write_contracts(connection, contracts)
        for contract in contracts:
            # A command that finds all in place must not wait for an import that runs.
            if not is_prepared(connection, contract):
                lock_observations(connection, contract.model)
                prepare_table(connection, contract)


def import_samples(connections: Connections) -> Iterator[tuple[str, ImportResult]]:
    """Bring the sample data of every workload without an observation in; yields each name and what came of it."""
    for name, workload in load_catalogue().items():
        if workload.sample is None:
            continue
        contract = workload.build_contract()
        with connections.engine.connect() as connection:
            if count_observations(connection, name) > 0:
                continue
        with TemporaryDirectory(prefix="millrace-sample-") as folder:
            path = Path(folder) / f"{name}.csv"
            workload.load_function("sample")(path)
            yield name, import_file(connections.engine, contract, path, name=path.name, actor="platform", kind="sample")
