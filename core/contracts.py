"""The table of contracts: what the platform's processes know of the workloads without loading the catalogue."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from core.errors import ModelNotFound
from core.tables.data import workloads

if TYPE_CHECKING:
    from core.contract import Contract


def write_contracts(connection: Connection, contracts: Iterable["Contract"]) -> None:
    """Store each workload's contract, over the one that was there."""
    for contract in contracts:
        document = contract.model_dump(mode="json")
        statement = insert(workloads).values(model=contract.model, contract=document)
        changed = {"contract": document, "written_at": func.now()}
        connection.execute(statement.on_conflict_do_update(index_elements=["model"], set_=changed))


def load_models(connection: Connection) -> list[str]:
    """Names of all declared models, sorted."""
    return list(connection.scalars(select(workloads.c.model).order_by(workloads.c.model)))


def load_contracts(connection: Connection, models: Collection[str] | None = None) -> "list[Contract]":
    """The contracts of all declared models, or of those of `models` that are, by name."""
    # It brings numpy, which commands that move stages do without.
    from core.contract import Contract

    query = select(workloads.c.contract).order_by(workloads.c.model)
    if models is not None:
        query = query.where(workloads.c.model.in_(models))
    return [Contract.model_validate(document) for document in connection.scalars(query)]


def load_contract(connection: Connection, model: str) -> "Contract":
    """The contract of a model; raises ModelNotFound."""
    from core.contract import Contract

    document = connection.scalar(select(workloads.c.contract).where(workloads.c.model == model))
    if document is None:
        raise ModelNotFound(model, load_models(connection))
    return Contract.model_validate(document)
