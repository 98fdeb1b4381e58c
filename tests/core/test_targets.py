"""Serving targets, in PostgreSQL."""

from sqlalchemy import Engine, select

from core.contracts import write_contracts
from core.database import TRANSITIONS_CHANNEL, listening
from core.tables.versions import serving_targets
from core.targets import LATEST, PRODUCTION, load_targets, set_target
from tests.core.contracts import build_series, build_table


def test_declared_models_serve_production_until_something_else_is_set(engine: Engine) -> None:
    with engine.begin() as connection:
        assert load_targets(connection) == {}
        write_contracts(connection, [build_series(), build_table()])
        assert load_targets(connection) == {"closes": PRODUCTION, "areas": PRODUCTION}

        set_target(connection, "closes", LATEST, "ada")
        set_target(connection, "closes", "3", "bob")

        assert load_targets(connection) == {"closes": "3", "areas": PRODUCTION}
        assert connection.execute(select(serving_targets.c.target, serving_targets.c.set_by)).all() == [("3", "bob")]


def test_target_of_a_model_that_is_not_declared_is_not_served(engine: Engine) -> None:
    with engine.begin() as connection:
        set_target(connection, "gone", LATEST, "ada")
        assert load_targets(connection) == {}


def test_serving_hears_of_a_target_when_it_is_committed_and_not_of_one_that_is_undone(
    engine: Engine, migrated_database_url: str
) -> None:
    with listening(migrated_database_url, TRANSITIONS_CHANNEL) as listener:
        with engine.connect() as connection:
            set_target(connection, "undone", LATEST, "ada")
            connection.rollback()
        with engine.begin() as connection:
            set_target(connection, "closes", LATEST, "ada")
            assert list(listener.notifies(timeout=0.2)) == []

        heard = [note.payload for note in listener.notifies(timeout=5, stop_after=1)]

    assert heard == ["closes"]
