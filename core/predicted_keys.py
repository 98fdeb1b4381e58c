"""What a prediction is about: the key that the rows of a request say, by which outcomes find it later."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core.contract import Contract

_MOST_KEY_BYTES = 500
_EARLIEST_YEAR, _LATEST_YEAR = 1900, 2200


@dataclass(frozen=True, slots=True)
class PredictedKey:
    """The entity, or the id, of what is predicted ('' for the only series), and the first time that is, in UTC."""

    entity: str
    time: datetime | None


def find_predicted_keys(contract: Contract, rows: object) -> list[PredictedKey | None] | None:
    """The key of each row that codec `rows` makes of `rows`, None for a row without one; None where none has any.

    The last row of a window is one step before the first that is predicted. A key is no input of the model: one that
    cannot be read is none, and refuses no prediction.
    """
    if contract.kind == "ranking" or (contract.key.time is None and contract.key.id is None):
        return None
    ahead = timedelta()
    if contract.kind == "sequence":
        if contract.step_s is None or not isinstance(rows, list) or not rows:
            return None
        ahead = timedelta(seconds=contract.step_s)
        windows = rows if isinstance(rows[0], list) else [rows]
        rows = [window[-1] if isinstance(window, list) and window else None for window in windows]
    elif isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        return None
    keys = [_find_key(contract, row, ahead) if isinstance(row, dict) else None for row in rows]
    return keys if any(key is not None for key in keys) else None


def _find_key(contract: Contract, row: Mapping[str, object], ahead: timedelta) -> PredictedKey | None:
    key = contract.key
    name = key.id if key.time is None else key.entity
    entity: str | None = ""
    if name is not None:
        entity = _read_entity(row.get(name, contract.column(name).default))
    if entity is None:
        return None
    if key.time is None:
        return PredictedKey(entity, None)
    time = _read_time(row.get(key.time), contract.column(key.time).time_format)
    return None if time is None else PredictedKey(entity, time + ahead)


def _read_entity(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return None
    try:
        is_short = len(value.encode()) <= _MOST_KEY_BYTES
    except UnicodeEncodeError:
        return None
    return value.strip() if is_short else None


def _read_time(value: object, time_format: str) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.strptime(value, time_format) if time_format else datetime.fromisoformat(value.strip())  # noqa: DTZ007  given its zone below
    except ValueError:
        return None
    if not _EARLIEST_YEAR <= time.year <= _LATEST_YEAR:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
