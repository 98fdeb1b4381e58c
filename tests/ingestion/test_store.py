"""The typed tables: made from a contract, widened, never rewritten."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from core.contract import Column
from core.data_errors import RowsRejected
from core.errors import DeclarationRejected
from ingestion.store import (
    build_table_name,
    drop_expired,
    load_observations,
    make_partitions_ahead,
    prepare_table,
)
from tests.ingestion.series import (
    build_fleet_contract,
    build_series_contract,
    build_table_contract,
    import_bytes,
    write_days,
)


def _list_partitions(engine: Engine, model: str) -> list[str]:
    with engine.connect() as connection:
        query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1"
        found = connection.exec_driver_sql(query, (build_table_name(model),)).scalars().all()
    return [str(name).removeprefix(f"observations_{model}_") for name in found]


def test_daily_series_is_partitioned_by_year_and_a_finer_one_by_month(engine: Engine, model: str) -> None:
    import_bytes(engine, build_series_contract(model), write_days(0, [1.0] * 400))
    fleet = model.replace("m", "f", 1)
    rows = b"machine,at,value\na,2023-12-31T23:59,1\na,2024-01-01,1\na,2024-03-01,1\n"
    import_bytes(engine, build_fleet_contract(fleet), rows)

    assert _list_partitions(engine, model) == ["y2021", "y2022"]
    assert _list_partitions(engine, fleet) == ["y2023m12", "y2024m01", "y2024m03"]


def test_columns_that_a_contract_gains_are_added_and_old_rows_stay(engine: Engine, model: str) -> None:
    import_bytes(engine, build_series_contract(model), write_days(0, [1.0] * 5))
    extra = Column(name='odd "name" [%]'.replace('"', ""), dtype="integer", is_nullable=True)
    wider = build_series_contract(model, extra=(extra,))

    import_bytes(engine, wider, b"Date,Close,odd name [%]\n2021-01-06,2,7\n")

    with engine.connect() as connection:
        stored = load_observations(connection, wider)
    assert stored["odd name [%]"].isna().tolist() == [True] * 5 + [False]
    assert stored["Close"].tolist() == [1.0] * 5 + [2.0]


def test_changed_type_or_key_is_refused(engine: Engine, model: str) -> None:
    number, text = Column(name="x", dtype="float"), Column(name="x", dtype="text")
    identity = Column(name="id", dtype="integer")
    import_bytes(engine, build_table_contract(model, identity, number, id_column="id"), b"id,x\n1,2\n")

    with (
        engine.begin() as connection,
        pytest.raises(DeclarationRejected, match="'x' is declared text but stored as double"),
    ):
        prepare_table(connection, build_table_contract(model, identity, text, id_column="id"))
    with engine.begin() as connection, pytest.raises(DeclarationRejected, match="under the key"):
        prepare_table(connection, build_table_contract(model, identity, number))


def test_names_that_no_table_can_have_are_refused(engine: Engine, model: str) -> None:
    with engine.begin() as connection, pytest.raises(DeclarationRejected, match="'source_id'"):
        prepare_table(connection, build_table_contract(model, Column(name="source_id", dtype="float")))
    with pytest.raises(DeclarationRejected, match="longer than the 41 characters"):
        build_table_name("m" * 42)


def test_rows_with_an_id_are_updated_by_it(engine: Engine, model: str) -> None:
    columns = (
        Column(name="id", dtype="text"),
        Column(name="note", dtype="text", is_nullable=True),
        Column(name="count", dtype="integer", is_nullable=True),
        Column(name="is_on", dtype="boolean"),
    )
    contract = build_table_contract(model, *columns, id_column="id")
    import_bytes(engine, contract, b'id,note,is_on,count\nb,"one, ""two""\nthree",1,\na,\\N,false,3\n')

    result = import_bytes(engine, contract, b"id,is_on,count\nb,1,4\na,false,3\n")

    assert (result.rows_changed, result.rows_unchanged) == (1, 1)
    with engine.connect() as connection:
        stored = load_observations(connection, contract)
    assert stored.to_dict("list") == {
        "id": ["a", "b"],
        "note": ["\\N", 'one, "two"\nthree'],
        "is_on": [False, True],
        "count": [3, 4],
    }


def test_observations_are_loaded_by_time(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    import_bytes(engine, contract, write_days(0, [1.0, 2.0, 3.0, 4.0, 5.0]))

    with engine.connect() as connection:
        some = load_observations(
            connection,
            contract,
            first_at=datetime(2021, 1, 2, tzinfo=UTC),
            last_at=datetime(2021, 1, 4, tzinfo=UTC),
        )
        none = load_observations(connection, build_series_contract(model.replace("m", "n", 1)))

    assert some["Close"].tolist() == [2.0, 3.0, 4.0]
    assert none.empty
    assert none.dtypes.equals(some.dtypes)


def test_partitions_are_made_ahead_of_their_rows(engine: Engine, model: str) -> None:
    daily, fleet = build_series_contract(model), build_fleet_contract(f"{model}_f")
    table = build_table_contract(f"{model}_t", Column(name="x", dtype="float"))
    with engine.begin() as connection:
        for contract in (daily, fleet, table):
            prepare_table(connection, contract)
            for _ in range(2):
                make_partitions_ahead(connection, contract, datetime(2024, 12, 31, tzinfo=UTC))

    assert _list_partitions(engine, model) == ["y2024", "y2025"]
    assert _list_partitions(engine, f"{model}_f") == ["y2024m12", "y2025m01"]


def test_partitions_past_their_retention_are_dropped_and_no_row_within_it(engine: Engine, model: str) -> None:
    now = datetime.now(UTC)
    contract = build_fleet_contract(model)
    times = [now - timedelta(days=days) for days in (1, 15, 30, 45, 60, 75, 90)]
    rows = "".join(f"a,{at:%Y-%m-%dT%H:%M:%SZ},1\n" for at in times)
    import_bytes(engine, contract, f"machine,at,value\n{rows}".encode())
    kept = contract.model_copy(update={"retention_days": 40})

    with engine.begin() as connection:
        assert drop_expired(connection, contract, now) == []
        dropped = drop_expired(connection, kept, now)

    border = now - timedelta(days=40)
    month_of_the_border = border.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    with engine.connect() as connection:
        stored = load_observations(connection, contract)["at"]
    assert len(dropped) >= 1
    assert stored.min() >= month_of_the_border
    assert len(stored) == sum(at >= month_of_the_border for at in times)
    # What could be dropped at once is not taken in.
    with pytest.raises(RowsRejected, match="rows are kept for 40 days"):
        import_bytes(engine, kept, f"machine,at,value\na,{now - timedelta(days=41):%Y-%m-%d},1\n".encode())
    assert (
        import_bytes(engine, kept, f"machine,at,value\na,{now - timedelta(days=39):%Y-%m-%d},1\n".encode()).rows_new
        == 1
    )


def test_rows_of_entities_are_kept_apart_and_updated_by_entity_and_time(engine: Engine, model: str) -> None:
    contract = build_fleet_contract(model)
    rows = "".join(f"{machine},2024-01-01T00:{5 * at:02},{at}\n" for machine in "ab" for at in range(3))
    import_bytes(engine, contract, f"machine,at,value\n{rows}".encode())

    result = import_bytes(engine, contract, b"machine,at,value\nb,2024-01-01T00:05,9\na,2024-01-01T00:15,3\n")

    assert (result.rows_new, result.rows_changed, result.rows_unchanged) == (1, 1, 0)
    with engine.connect() as connection:
        stored = load_observations(connection, contract)
    assert stored["value"].tolist() == [0, 1, 2, 3, 0, 9, 2]
