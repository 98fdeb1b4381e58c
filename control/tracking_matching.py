"""From a request to the right that it needs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote

from starlette.routing import compile_path

from control.tracking_rights import Right, build_rights
from core.principals import Role
from core.tracking_errors import TrackingAddressRejected, TrackingRouteUnnamed

_AJAX, _API = "/ajax-api/", "/api/"


@dataclass(frozen=True)
class MatchedRight:
    """The right that a request needs, and what its path names."""

    right: Right
    parameters: Mapping[str, str]


def read_address(path: str, raw_path: bytes, prefix: str) -> str:
    """The decoded path behind the door's prefix.

    Raises TrackingAddressRejected for one that this process and MLflow could read differently: the prefix encoded,
    empty segments, `.` and `..`, backslashes and control characters, encoded or not. An encoded slash is a slash to
    both.
    """
    if not raw_path.startswith(f"{prefix}/".encode()):
        raise TrackingAddressRejected(path, f"it has to begin with {prefix}/ as it stands")
    address = path.removeprefix(prefix)
    if address != unquote(raw_path.decode("latin-1")).removeprefix(prefix):
        raise TrackingAddressRejected(path, "it has to be percent-encoded UTF-8")
    if "\\" in address or any(ord(letter) < 32 or ord(letter) == 127 for letter in address):
        raise TrackingAddressRejected(path, "backslashes and control characters are not allowed")
    segments = address.split("/")
    if "" in segments[1:-1] or not {".", ".."}.isdisjoint(segments):
        raise TrackingAddressRejected(path, "empty segments, `.` and `..` are not allowed")
    return address


def find_right(method: str, address: str) -> MatchedRight:
    """The right that a request needs; raises TrackingRouteUnnamed where none is declared.

    HEAD is what GET is. Where several templates fit, the highest role of them is asked for, so that no order of
    MLflow's routes has to be known.
    """
    found: MatchedRight | None = None
    path = _API + address.removeprefix(_AJAX) if address.startswith(_AJAX) else address
    for pattern, right in _compile_patterns().get("GET" if method == "HEAD" else method, ()):
        match = pattern.fullmatch(path)
        if match is not None and (found is None or _get_rank(right) > _get_rank(found.right)):
            found = MatchedRight(right, match.groupdict())
    if found is None:
        raise TrackingRouteUnnamed(method, address)
    return found


@cache
def _compile_patterns() -> Mapping[str, Sequence[tuple[re.Pattern[str], Right]]]:
    patterns: dict[str, list[tuple[re.Pattern[str], Right]]] = {}
    for right in build_rights():
        patterns.setdefault(right.method, []).append((compile_path(right.template)[0], right))
    return patterns


def _get_rank(right: Right) -> int:
    return Role.ADMINISTRATOR + 1 if right.role is None else right.role
