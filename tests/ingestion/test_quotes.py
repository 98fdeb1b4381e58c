"""The frame of yfinance, in the form in which it answers, on its way to a CSV."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from core.data_errors import PullFailed, RowsRejected
from core.errors import ExtraMissing
from ingestion.importing import import_file
from ingestion.quotes import load_frame, write_quotes
from ingestion.store import load_observations
from workloads.catalogue import get_workload

_NOW = datetime(2024, 3, 1, 14, 30, tzinfo=UTC)
_DAYS = 40


def _build_frame(symbol: str = "BTC-USD", days: int = _DAYS) -> pd.DataFrame:
    """As `yfinance.download(symbol, period="max", auto_adjust=True)` answers: the last row is the day that runs."""
    index = pd.DatetimeIndex(pd.date_range(end="2024-03-01", periods=days, freq="D"), name="Date")
    prices = ["Close", "High", "Low", "Open", "Volume"]
    columns = pd.MultiIndex.from_product([prices, [symbol]], names=["Price", "Ticker"])
    values = 60_000 + np.arange(days * 5, dtype="float64").reshape(days, 5) / 7
    frame = pd.DataFrame(values, index=index, columns=columns)
    frame[("Volume", symbol)] = frame[("Volume", symbol)].astype("int64")
    return frame


def test_days_that_are_over_are_stored_as_they_were_answered(engine: Engine, model: str) -> None:
    contract = get_workload("prices").build_contract().model_copy(update={"model": model})
    frame = _build_frame()

    import_file(engine, contract, write_quotes("BTC-USD", frame, _NOW), name="yahoo", actor="test")

    with engine.connect() as connection:
        stored = load_observations(connection, contract)
    assert len(stored) == _DAYS - 1
    assert str(stored["Date"].iloc[-1]) == "2024-02-29 00:00:00+00:00"
    for name in ("Close", "Open", "High", "Low"):
        np.testing.assert_array_equal(stored[name], frame[(name, "BTC-USD")].to_numpy()[:-1])


def test_frame_of_one_level_and_with_a_zone_is_read_alike() -> None:
    frame = _build_frame()
    plain = frame.droplevel("Ticker", axis="columns").tz_localize("UTC")

    assert write_quotes("BTC-USD", plain, _NOW).read() == write_quotes("BTC-USD", frame, _NOW).read()


def test_day_without_a_close_is_refused_by_its_line(engine: Engine, model: str) -> None:
    contract = get_workload("prices").build_contract().model_copy(update={"model": model})
    frame = _build_frame()
    frame.iloc[3, 0] = np.nan

    with pytest.raises(RowsRejected, match="line 5, column Close: '' is not allowed, a value is needed"):
        import_file(engine, contract, write_quotes("BTC-USD", frame, _NOW), name="yahoo", actor="test")


def test_empty_answer_says_what_may_be_the_cause() -> None:
    with pytest.raises(PullFailed, match=r"Yahoo Finance \(BTC-USD\).*this machine is offline, or the symbol"):
        write_quotes("BTC-USD", _build_frame(days=0), _NOW)


def test_without_yfinance_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yfinance", None)

    with pytest.raises(ExtraMissing, match=r"yfinance is not installed; `pip install 'millrace\[yahoo\]'`"):
        load_frame("BTC-USD")
