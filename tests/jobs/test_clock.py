"""When a cron expression was due by a clock that is put forward and back."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.clock import find_due


def _read(moment: str) -> datetime:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "now", "due"),
    [
        ("0 0 * * *", "UTC", "2026-03-29 00:00", "2026-03-29 00:00"),
        ("0 0 * * *", "UTC", "2026-03-28 23:59", "2026-03-28 00:00"),
        # Midnight in Tokyo is no midnight in UTC.
        ("0 0 * * *", "Asia/Tokyo", "2026-03-29 15:00", "2026-03-29 15:00"),
        ("0 0 * * *", "Asia/Tokyo", "2026-03-29 14:59", "2026-03-28 15:00"),
        # Berlin's clocks go from 02:00 to 03:00 on the 29th of March: 02:30 is 03:30 then.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29 01:29", "2026-03-28 01:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29 01:30", "2026-03-29 01:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-30 00:30", "2026-03-30 00:30"),
        # They go from 03:00 back to 02:00 on the 25th of October: 02:30 comes twice, and is due the first time.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25 00:29", "2026-10-24 00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25 00:30", "2026-10-25 00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25 01:15", "2026-10-25 00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25 01:45", "2026-10-25 00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-26 01:30", "2026-10-26 01:30"),
        # Half an hour is put forward on Lord Howe.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 15:45", "2026-10-03 15:45"),
    ],
)
def test_time_is_due_by_the_clock_on_the_wall(cron: str, zone: str, now: str, due: str) -> None:
    assert find_due(cron, zone, _read(now)) == _read(due)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Africa/Cairo"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "0 0 * * *", "0 3 * * sun"])
def test_every_day_of_a_year_is_due_once_and_none_goes_back(cron: str, zone: str) -> None:
    now = datetime(2026, 1, 15, 12, tzinfo=UTC)
    seen = [find_due(cron, zone, now)]
    while now < datetime(2027, 1, 15, 12, tzinfo=UTC):
        now += timedelta(minutes=97)
        due = find_due(cron, zone, now)
        assert seen[-1] <= due <= now
        if due != seen[-1]:
            seen.append(due)
    assert len(seen) - 1 == (52 if "sun" in cron else 365)
