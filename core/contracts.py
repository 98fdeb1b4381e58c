"""The table of contracts: what the platform's processes know of the workloads without loading the catalogue."""

from collections.abc import Iterable

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from core.contract import Contract
from core.errors import ModelNotFound
from core.tables import workloads


def write_contracts(connection: Connection, contracts: Iterable[Contract]) -> None:
    """Store each workload's contract, over the one that was there."""
    for contract in contracts:
        document = contract.model_dump(mode="json")
        statement = insert(workloads).values(model=contract.model, contract=document)
        changed = {"contract": document, "written_at": func.now()}
        connection.execute(statement.on_conflict_do_update(index_elements=["model"], set_=changed))


def load_models(connection: Connection) -> list[str]:
    """Names of all declared models, sorted."""
    return list(connection.scalars(select(workloads.c.model).order_by(workloads.c.model)))


def load_contract(connection: Connection, model: str) -> Contract:
    """The contract of a model; raises ModelNotFound."""
    document = connection.scalar(select(workloads.c.contract).where(workloads.c.model == model))
    if document is None:
        raise ModelNotFound(model, load_models(connection))
    return Contract.model_validate(document)
