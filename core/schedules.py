"""Schedules as a setting has them: by model a cron expression and a time zone."""

from collections.abc import Mapping
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from core.names import is_name

_OFF = "off"
CRON_FIELDS = 5


def parse_schedules(given: str) -> Mapping[str, tuple[str, str] | None]:
    """`model=cron zone`, semicolons between; `model=off` is None, and without a zone it is UTC. Raises ValueError."""
    schedules: dict[str, tuple[str, str] | None] = {}
    for entry in filter(None, (part.strip() for part in given.split(";"))):
        model, _, schedule = (part.strip() for part in entry.partition("="))
        fields = schedule.split()
        if not is_name(model) or (schedule != _OFF and len(fields) not in (CRON_FIELDS, CRON_FIELDS + 1)):
            raise ValueError(f"{entry!r} is none of `model=0 3 * * * Europe/Berlin` and `model=off`")
        if model in schedules:
            raise ValueError(f"{model!r} is there twice")
        zone = fields[CRON_FIELDS] if len(fields) > CRON_FIELDS else "UTC"
        schedules[model] = None if schedule == _OFF else (" ".join(fields[:CRON_FIELDS]), check_time_zone(zone))
    return schedules


def check_time_zone(name: str) -> str:
    """The name itself, if it is one of the time zone database; raises ValueError."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone, as Europe/Berlin and UTC are") from None
    return name
