"""Schemas of both databases: of this version, an earlier and a later one, and the way between."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine

from core.database import build_libpq_url, build_tracking_store_url, migrate_database
from core.errors import DatabaseUnavailable
from core.keeping_errors import SchemaOutdated, SchemaTooNew
from core.local_platform import open_database
from core.schema import (
    Standing,
    load_platform_schema,
    load_tracking_schema,
    prepare_database,
    upgrade_schemas,
)
from core.settings import load_settings
from tests.core.backups import Place, digest_tables, make_earlier_platform, making_place

# MLflow's own models are written for an earlier SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

_EARLIER_TRACKING = "-1"


@pytest.fixture
def place(_cluster_url: str, tmp_path: Path) -> Iterator[Place]:
    with making_place(_cluster_url, tmp_path) as made:
        yield made


def make_earlier_tracking(url: str) -> str:
    """The store that an earlier MLflow made; its revision."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        config = _get_alembic_config(url.replace("%", "%%"))  # type: ignore[no-untyped-call]
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        command.downgrade(config, _EARLIER_TRACKING)
        connection.commit()
    engine.dispose()
    return str(load_tracking_schema(url).found)


def note_revision(url: str, revision: str) -> None:
    with psycopg.connect(build_libpq_url(url)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", [revision])


def test_empty_database_gets_the_schema_and_a_current_one_is_left_alone(place: Place) -> None:
    assert load_platform_schema(place.url).standing is Standing.EMPTY
    prepare_database(place.url)
    assert load_platform_schema(place.url).standing is Standing.CURRENT
    before = digest_tables(place.url)
    prepare_database(place.url)
    assert digest_tables(place.url) == before


def test_no_process_starts_on_the_schema_of_an_earlier_version(place: Place) -> None:
    make_earlier_platform(place.url)
    before = digest_tables(place.url)
    settings = load_settings(home=place.folder, database_url=place.url)
    with pytest.raises(SchemaOutdated, match="has schema '?0004.*millrace upgrade --backup"), open_database(settings):
        pass
    assert digest_tables(place.url) == before


def test_upgrade_brings_both_databases_up_and_run_again_changes_nothing(place: Place) -> None:
    make_earlier_platform(place.url)
    earlier = make_earlier_tracking(place.tracking_url)
    told: list[str] = []

    assert load_tracking_schema(place.tracking_url).standing is Standing.OUTDATED
    upgrade_schemas(place.url, place.tracking_url, told.append)
    upgrade_schemas(place.url, place.tracking_url, told.append)

    assert [line.split(" ->")[0] for line in told] == [
        f"MLflow's database: {earlier}",
        "the platform's database: 0004",
    ]
    assert load_platform_schema(place.url).standing is Standing.CURRENT
    assert load_tracking_schema(place.tracking_url).standing is Standing.CURRENT
    with psycopg.connect(build_libpq_url(place.url)) as connection:
        assert connection.execute("SELECT target FROM serving_targets").fetchall() == [("latest",)]


def test_database_of_a_later_version_is_refused_and_left_alone(place: Place) -> None:
    migrate_database(place.url)
    note_revision(place.url, "9999")
    make_earlier_tracking(place.tracking_url)
    before = place.digest_tables()
    with pytest.raises(SchemaTooNew, match="'9999', which this installation does not know"):
        prepare_database(place.url)
    with pytest.raises(SchemaTooNew, match="'9999', which this installation does not know"):
        upgrade_schemas(place.url, place.tracking_url, print)
    assert place.digest_tables() == before
    note_revision(place.url, load_platform_schema(place.url).newest)
    note_revision(place.tracking_url, "ffffffffffff")
    with pytest.raises(SchemaTooNew, match="MLflow database has schema 'ffffffffffff'"):
        upgrade_schemas(place.url, place.tracking_url, print)


def test_tracking_database_that_is_missing_is_empty_and_one_that_is_away_is_not(place: Place) -> None:
    missing = build_tracking_store_url(place.url, "not_made_yet")
    assert load_tracking_schema(missing).standing is Standing.EMPTY
    with pytest.raises(DatabaseUnavailable):
        load_tracking_schema("postgresql+psycopg2://millrace:a-long-password@127.0.0.1:1/mlflow")
