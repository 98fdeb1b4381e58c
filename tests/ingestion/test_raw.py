"""The way back from a stored row to the raw line that brought it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from core.contract import Column
from core.data_errors import ObservationNotFound
from ingestion.raw import find_line, get_origin
from tests.ingestion.series import (
    build_fleet_contract,
    build_series_contract,
    build_table_contract,
    import_bytes,
    write_days,
)


def test_row_of_a_series_leads_back_to_its_line(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    first = import_bytes(engine, contract, write_days(0, [1.25, 2.0, 3.0, 4.0, 5.0]), name="first.csv")
    # A source that brings the same bytes keeps none of its own; the row that it changes leads to it all the same.
    second = import_bytes(engine, contract, write_days(1, [2.5]), name="second.csv")
    import_bytes(engine, contract, write_days(0, [1.25, 2.0, 3.0, 4.0, 5.0]), name="again.csv")

    with engine.connect() as connection:
        kept = get_origin(connection, contract, ["2021-01-03"])
        changed = get_origin(connection, contract, ["2021-01-02T00:00:00Z"])
    assert (kept.source_id, kept.name, kept.kind, kept.form, kept.actor) == (
        first.source_id,
        "first.csv",
        "file",
        "csv",
        "test",
    )
    assert (kept.line, kept.text) == (4, "2021-01-03,3.0")
    assert changed.name == "again.csv"
    assert (changed.line, changed.text) == (3, "2021-01-02,2.0")
    assert second.source_id != changed.source_id


def test_rows_of_every_kind_of_key_lead_back(engine: Engine, model: str) -> None:
    fleet = build_fleet_contract(f"{model}_f")
    import_bytes(engine, fleet, b"machine,at,value\na,2024-01-01,1\nb,2024-01-01,2\na,2024-01-02,3\na,2024-01-03,3\n")
    columns = (Column(name="id", dtype="integer"), Column(name="note", dtype="text"))
    table = build_table_contract(f"{model}_i", *columns, id_column="id")
    import_bytes(engine, table, b'id,note\r\n1,"two\r\nlines"\r\n2,x\r\n')
    hashed = build_table_contract(f"{model}_h", *columns)
    import_bytes(engine, hashed, b"id,note\n1,a\n2,b\n")

    with engine.connect() as connection:
        row_hash = connection.exec_driver_sql(
            f"SELECT row_hash FROM observations_{model}_h WHERE id = 2"  # noqa: S608 - own name
        ).scalar_one()
        assert get_origin(connection, fleet, ["b", "2024-01-01"]).text == "b,2024-01-01,2"
        assert get_origin(connection, table, ["1"]).text == '1,"two\r\nlines"'
        assert get_origin(connection, table, ["2"]).text == "2,x"
        assert get_origin(connection, hashed, [str(row_hash)]).text == "2,b"


def test_row_of_a_file_of_many_pieces_leads_back(engine: Engine, model: str) -> None:
    columns = (Column(name="id", dtype="integer"), Column(name="note", dtype="text"))
    contract = build_table_contract(model, *columns, id_column="id")
    lines = [f"{at},{'x' * (1 + at % 977)}" for at in range(6_000)]
    import_bytes(engine, contract, "\n".join(["id,note", *lines[1:]]).encode())

    with engine.connect() as connection:
        for at in (1, 2_345, 5_999):
            assert get_origin(connection, contract, [str(at)]).text == lines[at]


@pytest.mark.parametrize("key", [["2021-02-01"], ["yesterday"], [], ["a", "2021-01-01"]])
def test_key_of_no_row_is_named(engine: Engine, model: str, key: list[str]) -> None:
    contract = build_series_contract(model)
    with engine.connect() as connection, pytest.raises(ObservationNotFound, match="its key is Date, in this order"):
        get_origin(connection, contract, key)
    import_bytes(engine, contract, write_days(0, [1.0] * 5))

    with engine.connect() as connection, pytest.raises(ObservationNotFound):
        get_origin(connection, contract, key)


@given(st.lists(st.text("ab,\u00fc\r", max_size=5), min_size=1, max_size=8), st.integers(1, 7))
def test_lines_are_found_wherever_the_pieces_end(lines: list[str], size: int) -> None:
    content = "\n".join(lines).encode()
    pieces = [content[at : at + size] for at in range(0, len(content), size)]

    for number, line in enumerate(lines[:-1], start=1):
        assert find_line(pieces, number) == line.rstrip("\r")
    assert find_line(pieces, len(lines) + 1) is None
