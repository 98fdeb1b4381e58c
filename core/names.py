"""Names that become part of paths, tables and addresses."""

import re

from core.errors import NameRejected

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def is_name(name: str) -> bool:
    """Whether the name is plain: lower-case letters, digits, underscores."""
    return _NAME.fullmatch(name) is not None


def check_name(what: str, name: str) -> str:
    """The name itself, if it is plain (lower-case letters, digits, underscores); raises NameRejected."""
    if not is_name(name):
        raise NameRejected(what, name)
    return name


def name_observations(model: str) -> str:
    """The table of a model's observations."""
    return f"observations_{model}"
