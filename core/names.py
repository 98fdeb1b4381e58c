"""Names that become part of paths, tables and addresses."""

import re

from core.errors import NameRejected

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def check_name(what: str, name: str) -> str:
    """The name itself, if it is plain (lower-case letters, digits, underscores); raises NameRejected."""
    if not _NAME.fullmatch(name):
        raise NameRejected(what, name)
    return name


def name_observations(model: str) -> str:
    """The table of a model's observations."""
    return f"observations_{model}"
