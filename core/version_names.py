"""Names of versions: given by who asks for a training, or the day's; unique within a model, and never given twice."""

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from core.errors import ParameterRejected, VersionNameTaken
from core.tables.trainings import trainings
from core.tables.versions import version_names
from core.targets import LATEST, PRODUCTION

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)
_SHORT_NUMBER = re.compile(r"[0-9]{1,7}", re.ASCII)
_MOST_A_DAY = 10_000
LARGEST_NUMBER = 9_999_999
"""Of the registry's versions; what has more digits is a name."""


def is_version_name(name: str) -> bool:
    """Whether a version can bear this name."""
    is_word = name.lower() in (PRODUCTION.lower(), LATEST)
    return bool(_NAME.fullmatch(name)) and not _SHORT_NUMBER.fullmatch(name) and not is_word


def can_name_version(wanted: str) -> bool:
    """Whether a version may be meant: by its number, or by a name."""
    return bool(_NUMBER.fullmatch(wanted)) or is_version_name(wanted)


def check_version_name(name: str) -> str:
    """The name itself, if it can be one; raises ParameterRejected.

    A number of up to seven digits is always the registry's number of a version.
    """
    if not is_version_name(name):
        raise ParameterRejected(
            "version",
            name,
            "a name has up to 63 letters, digits, dots, hyphens and underscores, as in 1.0.0; it is neither "
            f"{PRODUCTION} nor {LATEST}, nor a plain number of fewer than eight digits",
        )
    return name


def check_name_is_free(connection: Connection, model: str, name: str) -> str:
    """The name itself, if it can be given to the model's next version; raises ParameterRejected, VersionNameTaken."""
    check_version_name(name)
    _drop_abandoned(connection, model)
    if name in _load_taken(connection, model):
        raise VersionNameTaken(model, name)
    return name


def reserve_version_name(
    connection: Connection, model: str, training_id: uuid.UUID, wanted: str | None, now: datetime | None = None
) -> str:
    """The name of the version that this training will make: `wanted`, else the day's as YYYYMMDD, YYYYMMDD.2, ….

    A training keeps the name that it has, whichever attempt asks. Raises ParameterRejected, VersionNameTaken.
    """
    own = connection.scalar(select(version_names.c.name).where(version_names.c.training_id == training_id))
    if own is not None:
        return str(own)
    if wanted is not None:
        check_name_is_free(connection, model, wanted)
        candidates = [wanted]
    else:
        _drop_abandoned(connection, model)
        day = f"{now or datetime.now(UTC):%Y%m%d}"
        candidates = [day, *(f"{day}.{number}" for number in range(2, _MOST_A_DAY))]
    taken = _load_taken(connection, model)
    for name in candidates:
        if name in taken:
            continue
        statement = insert(version_names).values(model=model, name=name, training_id=training_id)
        if connection.execute(statement.on_conflict_do_nothing().returning(version_names.c.name)).first():
            return name
    raise VersionNameTaken(model, candidates[0])


def settle_version_name(connection: Connection, training_id: uuid.UUID, version: int) -> None:
    """Note which version the training's name belongs to, from now on for ever."""
    connection.execute(update(version_names).where(version_names.c.training_id == training_id).values(version=version))


def load_version_names(connection: Connection, model: str) -> dict[str, int]:
    """The version of each of the model's names."""
    statement = select(version_names.c.name, version_names.c.version).where(
        version_names.c.model == model, version_names.c.version.is_not(None)
    )
    return {row.name: row.version for row in connection.execute(statement)}


def find_numbered(wanted: str, names: Mapping[str, int]) -> int | None:
    """The version that a number or a name means; None for a name that is not known."""
    return int(wanted) if _NUMBER.fullmatch(wanted) else names.get(wanted)


def _load_taken(connection: Connection, model: str) -> set[str]:
    return set(connection.scalars(select(version_names.c.name).where(version_names.c.model == model)))


def _drop_abandoned(connection: Connection, model: str) -> None:
    """Free the names of trainings that ended without a version."""
    # The queue's library, which serving does without.
    from core.trainings import OPEN_STATES

    is_open = select(trainings.c.id).where(trainings.c.state.in_(OPEN_STATES))
    connection.execute(
        delete(version_names).where(
            version_names.c.model == model,
            version_names.c.version.is_(None),
            version_names.c.training_id.not_in(is_open),
            version_names.c.reserved_at < func.now(),
        )
    )
