"""Sample data makes way for the first rows of one's own, and only then."""

import io

import pytest
from sqlalchemy import Engine, select

from core.contract import Contract
from core.data_errors import RowsRejected
from core.tables.data import sources
from ingestion.importing import import_file
from ingestion.store import load_observations
from tests.ingestion.series import build_series_contract, count_rows, import_bytes, write_days

SAMPLE = write_days(0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
# A gap to the sample data, which alone would refuse them.
OWN = write_days(400, [10.0, 11.0, 12.0, 13.0, 14.0])


@pytest.fixture
def contract(engine: Engine, model: str) -> Contract:
    """A contract whose sample data are in."""
    contract = build_series_contract(model)
    import_file(engine, contract, io.BytesIO(SAMPLE), name="sample.csv", actor="platform", kind="sample")
    return contract


def _load_closes(engine: Engine, contract: Contract) -> list[float]:
    with engine.connect() as connection:
        return [float(value) for value in load_observations(connection, contract)["Close"]]


def test_first_import_of_ones_own_replaces_the_sample_and_the_next_joins_it(engine: Engine, contract: Contract) -> None:
    first = import_bytes(engine, contract, OWN)
    second = import_bytes(engine, contract, write_days(405, [15.0]))

    assert (first.rows_new, first.sample_rows_replaced) == (5, 6)
    assert (second.rows_new, second.sample_rows_replaced) == (1, 0)
    assert _load_closes(engine, contract) == [10, 11, 12, 13, 14, 15]
    with engine.connect() as connection:
        states = connection.execute(select(sources.c.kind, sources.c.state).where(sources.c.model == contract.model))
        assert sorted(tuple(row) for row in states) == [("file", "imported")] * 2 + [("sample", "replaced")]


def test_refused_import_leaves_the_sample(engine: Engine, contract: Contract) -> None:
    with pytest.raises(RowsRejected):
        import_bytes(engine, contract, OWN + b"2022-02-10,x\n")

    assert _load_closes(engine, contract) == [1, 2, 3, 4, 5, 6]
    assert import_bytes(engine, contract, OWN).sample_rows_replaced == 6


def test_sample_that_is_brought_in_again_replaces_nothing(engine: Engine, contract: Contract) -> None:
    again = import_file(engine, contract, io.BytesIO(SAMPLE), name="sample.csv", actor="platform", kind="sample")

    assert (again.rows_unchanged, again.sample_rows_replaced) == (6, 0)
    assert count_rows(engine, contract.model) == 6
