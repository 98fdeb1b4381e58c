"""Wall-clock times: when a cron expression was last due, in a time zone whose clocks may be put forward and back."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter

_LARGEST_SHIFT = timedelta(hours=3)
"""More than clocks are put forward or back at once."""


def find_due(cron: str, time_zone: str, now: datetime) -> datetime:
    """The last time at or before `now` at which `cron` (five fields) was due by the clocks of `time_zone`, in UTC.

    A time that the clocks leave out is due as much later as they are put forward; one that comes twice is due the first
    time alone. croniter itself, given times with a zone, is due both times.
    """
    zone = ZoneInfo(time_zone)
    shown = now.astimezone(zone).replace(tzinfo=None)
    # Each time of the clock on its own: the order of what the clocks show is not that of the hours they stand for.
    candidates = croniter(cron, shown + _LARGEST_SHIFT)
    found: datetime | None = None
    while True:
        wall: datetime = candidates.get_prev(datetime)
        due = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
        if due <= now and (found is None or due > found):
            found = due
        if found is not None and wall < shown - _LARGEST_SHIFT:
            return found
