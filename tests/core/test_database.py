import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.schema import SchemaItem

from core.database import (
    build_libpq_url,
    build_tracking_store_url,
    check_database,
    create_database_engine,
    create_partitions,
    hide_password,
    lock_model,
    migrate_database,
    normalise_url,
    try_lock_model,
)
from core.errors import DatabaseUnavailable
from core.tables.metadata import metadata

# --- addresses ---------------------------------------------------------------------------------------------------

URL = "postgresql://millrace:s3cret-password@db.example:5432/millrace"


def test_addresses_name_the_driver_that_each_reader_needs() -> None:
    assert normalise_url(URL) == URL.replace("postgresql:", "postgresql+psycopg:")
    assert build_libpq_url(normalise_url(URL)) == URL
    store = build_tracking_store_url(normalise_url(URL))
    assert store == URL.replace("postgresql:", "postgresql+psycopg2:").replace("5432/millrace", "5432/mlflow")
    assert build_tracking_store_url(URL, database=None).endswith("/millrace")


def test_address_is_shown_without_its_password() -> None:
    assert hide_password(URL) == "postgresql://millrace:***@db.example:5432/millrace"


def test_database_that_is_away_is_named_without_its_password() -> None:
    away = "postgresql://millrace:s3cret-password@127.0.0.1:1/millrace"
    for act in (check_database, migrate_database):
        with pytest.raises(DatabaseUnavailable, match=r"millrace:\*\*\*@127") as error:
            act(away)
        assert "s3cret" not in str(error.value)


# --- migrations --------------------------------------------------------------------------------------------------


def load_differences(url: str) -> list[object]:
    """What Alembic would still change in the database to make it as `core.tables` says."""
    queue_prefix, own_table = "procrastinate_", "alembic_version"

    def is_ours(item: SchemaItem, name: str | None, kind: str, reflected: bool, compared: SchemaItem | None) -> bool:
        return kind != "table" or not (str(name).startswith(queue_prefix) or name == own_table)

    engine = create_engine(normalise_url(url))
    try:
        with engine.connect() as connection:
            options = {"compare_type": True, "compare_server_default": True, "include_object": is_ours}
            return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))
    finally:
        engine.dispose()


def load_table_names(url: str) -> set[str]:
    engine = create_engine(normalise_url(url))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_migrations_of_an_empty_database_give_the_tables_of_the_code(fresh_database_url: str) -> None:
    migrate_database(fresh_database_url)
    names = load_table_names(fresh_database_url)
    assert set(metadata.tables) <= names
    assert "procrastinate_jobs" in names
    assert load_differences(fresh_database_url) == []


def test_migrations_run_twice_change_nothing(fresh_database_url: str) -> None:
    migrate_database(fresh_database_url)
    with psycopg.connect(build_libpq_url(fresh_database_url)) as connection:
        connection.execute("INSERT INTO serving_targets (model, target, set_by) VALUES ('prices', '3', 'ann')")
    migrate_database(fresh_database_url)
    with psycopg.connect(build_libpq_url(fresh_database_url)) as connection:
        assert connection.execute("SELECT target FROM serving_targets").fetchall() == [("3",)]


_MIGRATE = "import os; from core.database import migrate_database; migrate_database(os.environ['DATABASE_URL'])"


def test_migrations_by_two_processes_at_once_are_done_once(fresh_database_url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": fresh_database_url}
    processes = [subprocess.Popen([sys.executable, "-c", _MIGRATE], env=environment) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert load_differences(fresh_database_url) == []


def test_migration_makes_the_database_of_the_tracking_server(database_url: str) -> None:
    store = build_tracking_store_url(database_url).replace("+psycopg2", "")
    with psycopg.connect(store) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("mlflow",)


# --- locks -------------------------------------------------------------------------------------------------------


def test_model_lock_admits_one_transaction_at_a_time_and_ends_with_it(engine: Engine, model: str) -> None:
    with engine.begin() as first:
        lock_model(first, model)
        with engine.begin() as second:
            assert not try_lock_model(second, model)
            assert try_lock_model(second, f"{model}_other")
    with engine.begin() as third:
        assert try_lock_model(third, model)


def test_model_lock_is_waited_for(engine: Engine, model: str) -> None:
    order: list[str] = []
    is_held = threading.Event()

    def hold() -> None:
        with engine.begin() as connection:
            lock_model(connection, model)
            is_held.set()
            time.sleep(0.3)
            order.append("first")

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    with engine.begin() as connection:
        lock_model(connection, model)
        order.append("second")
    holder.join()
    assert order == ["first", "second"]


# --- partitions --------------------------------------------------------------------------------------------------


def test_partitions_cover_the_span_and_are_made_once(fresh_database_url: str) -> None:
    migrate_database(fresh_database_url)
    engine = create_database_engine(fresh_database_url)
    first_at, last_at = datetime(2026, 11, 30, 23, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    for _ in range(2):
        with engine.begin() as connection:
            create_partitions(connection, "predictions", first_at, last_at, "month")
    with engine.begin() as connection:
        parts = connection.scalars(
            text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'predictions'::regclass")
        )
        assert sorted(parts) == ["predictions_y2026m11", "predictions_y2026m12", "predictions_y2027m01"]
    engine.dispose()
