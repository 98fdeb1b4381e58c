"""Daily prices from Yahoo Finance, through yfinance; this is its only user, and it is installed only where wanted."""

import io
from datetime import UTC, datetime
from typing import BinaryIO

import pandas as pd

from core.data_errors import PullFailed
from core.errors import ExtraMissing

EXTRA = "yahoo"


def fetch_quotes(symbol: str, now: datetime) -> BinaryIO:
    """All daily quotes of an instrument, as a CSV of the days that are over; raises ExtraMissing and PullFailed."""
    return write_quotes(symbol, load_frame(symbol), now)


def load_frame(symbol: str) -> pd.DataFrame:
    """What yfinance answers for the instrument's whole history; raises ExtraMissing and PullFailed."""
    try:
        import yfinance
        from yfinance.exceptions import YFException
    except ImportError as error:
        raise ExtraMissing("yfinance", EXTRA) from error
    try:
        frame = yfinance.download(symbol, period="max", interval="1d", auto_adjust=True, progress=False, threads=False)
    except (YFException, OSError, ValueError, LookupError) as error:
        raise PullFailed(_name(symbol), str(error) or type(error).__name__) from error
    return frame if frame is not None else pd.DataFrame()


def write_quotes(symbol: str, frame: pd.DataFrame, now: datetime) -> BinaryIO:
    """The frame as CSV: one instrument, its columns by their plain names, without the day that is still open.

    yfinance answers columns of two levels, (price, instrument), over an index of days; where it reaches nobody, a
    frame without rows.
    """
    if frame.empty:
        raise PullFailed(_name(symbol), "it answered no rows; this machine is offline, or the symbol is unknown")
    if isinstance(frame.columns, pd.MultiIndex):
        frame = frame.droplevel(list(range(1, frame.columns.nlevels)), axis="columns")
    days = pd.DatetimeIndex(frame.index)
    days = days.tz_localize("UTC") if days.tz is None else days.tz_convert("UTC")
    today = pd.Timestamp(now.astimezone(UTC)).normalize()
    kept = frame.set_axis(days.strftime("%Y-%m-%d"), axis="index")[days < today]
    return io.BytesIO(kept.rename_axis("Date").to_csv().encode())


def _name(symbol: str) -> str:
    return f"Yahoo Finance ({symbol})"
