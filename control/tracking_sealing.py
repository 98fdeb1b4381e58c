"""Files of registered versions, which nobody writes any more: what serves is changed by a promotion alone.

Whoever may log artifacts could otherwise put another model under a version that the gate has judged, or that serves.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from urllib.parse import unquote, urlsplit

from control.tracking_matching import MatchedRight
from core.registry import RegisteredVersion, Registry
from core.tracking_errors import TrackingAddressRejected, TrackingVersionSealed

_ARTIFACTS = "artifacts"
_UPLOADS = ("PUT /mlflow/api/2.0/mlflow-artifacts/artifacts/{path:path}", "POST /mlflow/api/2.0/mlflow/upload-artifact")
# Ids of runs and of logged models, as MLflow makes them.
_OWNER = re.compile(r"(?:m-)?[0-9a-f]{32}")
_MOST_OWNERS = 4


def find_written(matched: MatchedRight, query: Mapping[str, Sequence[str]]) -> list[Sequence[str]]:
    """The files that the request would write, each as the parts of its path; none where it writes no artifact."""
    if matched.right.action not in _UPLOADS:
        return []
    if "path" in matched.parameters:
        return [_split(matched.parameters["path"])]
    # MLflow takes the first of several; none of them may be a file that is sealed.
    return [
        [run_id, _ARTIFACTS, *_split(path)] for run_id in query.get("run_uuid", ()) for path in query.get("path", ())
    ]


def check_unsealed(registry: Registry, written: Sequence[Sequence[str]]) -> None:
    """Raise TrackingVersionSealed where one of the files is a registered version's.

    Raises TrackingAddressRejected for a path through more folders than are looked up.
    """
    for parts in written:
        owners = _find_owners(parts)
        if len(owners) > _MOST_OWNERS:
            raise TrackingAddressRejected("/".join(parts), f"it names more than {_MOST_OWNERS} runs or logged models")
        for owner in owners:
            for version in registry.load_versions_from(owner):
                if _is_within(parts, _locate(version)):
                    raise TrackingVersionSealed("/".join(parts), version.model, version.version)


def _find_owners(parts: Sequence[str]) -> set[str]:
    """The runs and logged models whose folders the path leads through."""
    return {owner for owner, below in pairwise(parts) if below == _ARTIFACTS and _OWNER.fullmatch(owner)}


def _locate(version: RegisteredVersion) -> Sequence[str]:
    """The folder of the version's files, from the run or logged model on, or from the store's root."""
    address = urlsplit(version.source)
    parts = _split(address.path)
    return parts if address.scheme == "mlflow-artifacts" else [*parts[:1], _ARTIFACTS, *parts[1:]]


def _is_within(parts: Sequence[str], folder: Sequence[str]) -> bool:
    return any(piece == list(folder) for piece in _iterate_pieces(parts, len(folder)))


def _iterate_pieces(parts: Sequence[str], length: int) -> Iterator[list[str]]:
    return (list(parts[start : start + length]) for start in range(len(parts) - length + 1))


def _split(path: str) -> list[str]:
    """The parts of a path as MLflow reads it, which undoes percent-encoding until there is none left."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return [part for part in posixpath.normpath(path).split("/") if part]
