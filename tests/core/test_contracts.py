"""The table of contracts, in PostgreSQL."""

import pytest
from sqlalchemy import Engine, select

from core.contracts import load_contract, load_models, write_contracts
from core.errors import ModelNotFound
from core.tables.data import workloads
from tests.core.contracts import build_pair_series, build_series, build_table


def test_contract_is_read_as_it_was_written(engine: Engine) -> None:
    written = [build_series(), build_table(), build_pair_series()]

    with engine.begin() as connection:
        write_contracts(connection, written)
    with engine.connect() as connection:
        assert [load_contract(connection, contract.model) for contract in written] == written
        assert load_models(connection) == ["areas", "closes", "pairs"]


def test_contract_is_written_over_the_earlier_one_and_its_time_moves(engine: Engine) -> None:
    times = []
    for contract in (build_series(steps=3), build_series(steps=9)):
        with engine.begin() as connection:
            write_contracts(connection, [contract])
            times.append(connection.scalars(select(workloads.c.written_at)).one())

    with engine.connect() as connection:
        assert load_contract(connection, "closes").steps == 9
        assert load_models(connection) == ["closes"]
    assert times[0] < times[1]


def test_unknown_model_is_told_with_those_that_are_known(engine: Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(ModelNotFound, match="no model 'prices'; known are none"):
            load_contract(connection, "prices")
        write_contracts(connection, [build_table(), build_series()])
        with pytest.raises(ModelNotFound, match="no model 'prices'; known are areas, closes"):
            load_contract(connection, "prices")
