"""Partitions by the clock: made ahead, dropped when their time is over, left where they are in use."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from core.connections import Connections
from core.database import create_partitions
from jobs import upkeep
from jobs.startup import declare_workloads
from jobs.upkeep import keep_partitions
from tests.jobs.requesting import bring_rows, change_settings

NOW = datetime(2026, 11, 20, 3, tzinfo=UTC)


def _list_partitions(connections: Connections, table: str) -> list[str]:
    query = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(:name) ORDER BY 1")
    with connections.engine.connect() as connection:
        found = connection.scalars(query, {"name": table}).all()
    return [str(name).removeprefix(f"{table}_") for name in found]


def test_partitions_of_observations_and_predictions_are_made_ahead(connections: Connections) -> None:
    declare_workloads(connections)

    assert keep_partitions(connections, NOW + timedelta(days=20)) == []

    assert _list_partitions(connections, "observations_prices") == ["y2026", "y2027"]
    assert _list_partitions(connections, "predictions") == ["y2026m12", "y2027m01"]


def test_predictions_past_their_retention_are_dropped_and_observations_stay(connections: Connections) -> None:
    declare_workloads(connections)
    bring_rows(connections, 400)
    with connections.engine.begin() as connection:
        create_partitions(connection, "predictions", NOW - timedelta(days=200), NOW, "month")
    kept_days = change_settings(connections, prediction_days=90)

    assert keep_partitions(connections, NOW) == []
    assert keep_partitions(kept_days, NOW) == [f"predictions_y2026m0{month}" for month in (5, 6, 7)]

    # 90 days before 20 November is 22 August: that month has rows within the retention.
    assert _list_partitions(connections, "predictions")[0] == "y2026m08"
    assert _list_partitions(connections, "observations_prices")[:2] == ["y2018", "y2019"]


def test_table_in_use_is_left_for_the_next_time(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_LOCK_TIMEOUT", "100ms")
    with connections.engine.begin() as connection:
        create_partitions(connection, "predictions", NOW - timedelta(days=200), NOW, "month")
    kept_days = change_settings(connections, prediction_days=90)
    with connections.engine.begin() as reader:
        reader.execute(text("SELECT count(*) FROM predictions"))
        assert keep_partitions(kept_days, NOW) == []

    assert len(keep_partitions(kept_days, NOW)) == 3
