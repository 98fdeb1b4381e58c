"""Pulls from a real server: stored once, recorded whatever becomes of them, and tried again."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pandas as pd
import pytest
from sqlalchemy import Engine, select, text

from core.contract import Contract
from core.data_errors import AddressRefused, PullFailed, RowsRejected
from core.settings import Settings, load_settings
from core.tables.data import pulls, rejected_rows, sources
from ingestion import quotes
from ingestion.pulling import Pull, load_pulls, pull_source, request_pull
from tests.ingestion.series import build_series_contract, count_rows, write_days
from tests.ingestion.test_fetching import Server, address, server
from workloads.declaration import PulledSource

__all__ = ["address", "server"]
_DUE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def contract(model: str) -> Contract:
    return build_series_contract(model)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, pull_private=True)


@pytest.fixture
def source(address: str) -> PulledSource:
    return PulledSource(name="feed", kind="http", address=f"{address}/rows", cron="0 6 * * *")


def _request(engine: Engine, contract: Contract, source: PulledSource, due_at: datetime | None = None) -> UUID | None:
    with engine.begin() as connection:
        return request_pull(connection, contract.model, source, due_at)


def _pull(engine: Engine, settings: Settings, contract: Contract, source: PulledSource) -> Pull:
    pull_id = _request(engine, contract, source)
    assert pull_id is not None
    return pull_source(engine, settings, contract, source, pull_id)


def _load_states(engine: Engine, model: str) -> list[str]:
    """Oldest first."""
    with engine.connect() as connection:
        return [str(row.state) for row in load_pulls(connection, model)][::-1]


def test_pulled_rows_are_stored_and_what_is_as_it_was_is_not_fetched_again(
    engine: Engine, settings: Settings, contract: Contract, source: PulledSource, server: Server
) -> None:
    server.content = write_days(0, [1.0, 2, 3, 4, 5])

    first = _pull(engine, settings, contract, source)
    again = _pull(engine, settings, contract, source)
    server.content, server.etag = write_days(0, [1.0, 2, 3, 4, 5, 6]), '"2"'
    later = _pull(engine, settings, contract, source)

    assert first.result is not None and first.result.rows_new == 5
    assert again.result is None
    assert later.result is not None and (later.result.rows_new, later.result.rows_unchanged) == (1, 5)
    assert _load_states(engine, contract.model) == ["imported", "unchanged", "imported"]
    with engine.connect() as connection:
        kinds = connection.execute(select(sources.c.kind, sources.c.name).where(sources.c.model == contract.model))
        assert {tuple(row) for row in kinds} == {("pull", "feed")}


def test_json_of_an_address_is_stored(
    engine: Engine, settings: Settings, contract: Contract, source: PulledSource, server: Server
) -> None:
    server.content = (
        b'[{"day": "2021-01-01", "close": 1}, {"day": "2021-01-02", "close": 2.5}, '
        + b", ".join(f'{{"day": "2021-01-0{day}", "close": {day}, "note": "x"}}'.encode() for day in (3, 4, 5))
        + b"]"
    )

    pull = _pull(engine, settings, contract, source)

    assert pull.result is not None and (pull.result.rows_new, pull.result.ignored_columns) == (5, ("note",))


def test_rejected_content_is_kept_and_fetched_again(
    engine: Engine, settings: Settings, contract: Contract, source: PulledSource, server: Server
) -> None:
    server.content = write_days(0, [1.0, 2, 3, 4, 5]) + b"2021-01-06,abc\n"
    for _ in range(2):
        with pytest.raises(RowsRejected, match="line 7, column Close"):
            _pull(engine, settings, contract, source)
    server.content = write_days(0, [1.0, 2, 3, 4, 5])
    mended = _pull(engine, settings, contract, source)

    assert mended.result is not None and mended.result.rows_new == 5
    assert _load_states(engine, contract.model) == ["rejected", "rejected", "imported"]
    with engine.connect() as connection:
        first = load_pulls(connection, contract.model)[-1]
        faults = connection.execute(select(rejected_rows.c.value).where(rejected_rows.c.source_id == first.source_id))
        assert [row.value for row in faults] == ["abc"]
        assert "line 7, column Close" in str(first.reason)


def test_failed_pull_keeps_its_reason_and_stores_nothing(
    engine: Engine, settings: Settings, contract: Contract, source: PulledSource, address: str
) -> None:
    broken = PulledSource(name="feed", kind="http", address=f"{address}/error", cron=source.cron)
    with pytest.raises(PullFailed, match="the server answered 500"):
        _pull(engine, settings, contract, broken)
    with pytest.raises(AddressRefused, match="MILLRACE_PULL_PRIVATE"):
        _pull(engine, settings.model_copy(update={"pull_private": False}), contract, source)

    assert count_rows(engine, contract.model) == 0
    with engine.connect() as connection:
        rows = load_pulls(connection, contract.model)
    assert [row.state for row in rows] == ["failed", "failed"]
    assert "the server answered 500" in str(rows[1].reason)


def test_validators_belong_to_the_address(
    engine: Engine, settings: Settings, contract: Contract, source: PulledSource, server: Server, address: str
) -> None:
    server.content = write_days(0, [1.0, 2, 3, 4, 5])
    _pull(engine, settings, contract, source)
    moved = PulledSource(name="feed", kind="http", address=f"{address}/elsewhere", cron=source.cron)

    assert _pull(engine, settings, contract, moved).result is not None


def test_address_with_a_secret_is_not_stored(
    engine: Engine, settings: Settings, contract: Contract, address: str, server: Server
) -> None:
    server.content = write_days(0, [1.0, 2, 3, 4, 5])
    _pull(engine, settings, contract, PulledSource("feed", "http", f"{address}/x?token=hidden77", "* * * * *"))
    with pytest.raises(PullFailed):
        _pull(engine, settings, contract, PulledSource("feed", "http", f"{address}/error?token=hidden77", "* * * * *"))

    with engine.connect() as connection:
        for table in (pulls, sources):
            shown = connection.scalars(text(f"SELECT t::text FROM {table.name} t WHERE model = '{contract.model}'"))  # noqa: S608
            assert not any("hidden77" in row for row in shown)


def test_source_is_requested_once_for_a_time_and_what_was_left_is_failed(
    engine: Engine, contract: Contract, source: PulledSource
) -> None:
    assert _request(engine, contract, source, _DUE) is not None
    assert _request(engine, contract, source, _DUE) is None
    assert _request(engine, contract, source, _DUE.replace(day=2)) is not None

    assert _load_states(engine, contract.model) == ["failed", "queued"]


def test_prices_come_from_yfinance(
    engine: Engine, settings: Settings, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = pd.DatetimeIndex(pd.date_range("2021-01-01", periods=6), name="Date")
    frame = pd.DataFrame({("Close", "BTC-USD"): [1.0, 2, 3, 4, 5, 6]}, index=index)
    asked: list[str] = []

    def load(symbol: str) -> pd.DataFrame:
        asked.append(symbol)
        return frame

    monkeypatch.setattr(quotes, "load_frame", load)
    yahoo = PulledSource(name="yahoo", kind="yfinance", address="BTC-USD", cron="20 0 * * *")
    first = _pull(engine, settings, contract, yahoo)
    again = _pull(engine, settings, contract, yahoo)

    assert asked == ["BTC-USD"] * 2
    assert first.result is not None and first.result.rows_new == 6
    assert again.result is not None and (again.result.rows_new, again.result.rows_unchanged) == (0, 6)
