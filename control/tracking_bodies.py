"""Bodies of requests to MLflow: those that decide whether a request is let through, and what others name."""

import re
from collections.abc import Mapping

import orjson
from starlette.types import Message, Receive, Scope

from control.tracking_operations import check_operations
from control.tracking_rights import Right
from core.principals import Role
from core.tracking_errors import TrackingBodyRejected, TrackingLocationDenied, TrackingSourceDenied
from web.bodies import parse_json, read_body

_MAX_JUDGED_BYTES = 2**20
_MAX_NAMING_BYTES = 2**16
_ARTIFACTS_SCHEME = "mlflow-artifacts:"
# Where the tracking server looks for a trace's files.
_TRACE_LOCATIONS = ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")
_REGISTRY = ("/api/2.0/mlflow/registered-models/", "/api/2.0/mlflow/model-versions/")
# What MLflow resolves itself, to artifacts of its own, and the words that stand in a prompt's place of files.
_SOURCE = re.compile(r"(?:runs|models|mlflow-artifacts):/.*|[a-z-]+", re.DOTALL)

Document = Mapping[str, object]


def is_judged(right: Right) -> bool:
    """Whether the body of such a request decides too, or who records it has to know what it names."""
    if right.method != "GET" and right.template in _JUDGES:
        return True
    return right.is_changing and (right.role is Role.ADMINISTRATOR or right.template.startswith(_REGISTRY))


async def judge_body(right: Right, scope: Scope, receive: Receive) -> tuple[Document, Scope, Receive]:
    """The body as an object, and the request to forward, whose body says just that.

    It is written anew so that MLflow can read nothing else in it than was read here: encodings of JSON, members that
    come twice. Raises what speaks against it.
    """
    content = await read_body(scope, receive, _MAX_JUDGED_BYTES)
    if not content and right.template not in _JUDGES:
        # What its path alone names.
        return {}, scope, _replay(content, receive)
    document = parse_json(content)
    if isinstance(document, str):
        # As old clients send it, and MLflow takes it.
        document = parse_json(document.encode())
    if not isinstance(document, dict):
        raise TrackingBodyRejected("a JSON object is taken")
    if right.template in _JUDGES:
        _JUDGES[right.template](document)
    body = orjson.dumps(document)
    headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
    headers.append((b"content-length", str(len(body)).encode()))
    return document, {**scope, "headers": headers}, _replay(body, receive)


async def peek_document(scope: Scope, receive: Receive) -> tuple[Document, Receive]:
    """What a small JSON body says, for the names in it, and the way to read the body again; empty for any other."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) > _MAX_NAMING_BYTES or b"json" not in headers.get(b"content-type", b""):
        return {}, receive
    body = await read_body(scope, receive, _MAX_NAMING_BYTES)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        # MLflow says what is wrong with it.
        document = None
    return document if isinstance(document, dict) else {}, _replay(body, receive)


def spell_names(document: Document) -> dict[str, object]:
    """The members by MLflow's own names, to which `runId` is `run_id`; any other spelling is nothing to it."""
    return {re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name): value for name, value in document.items()}


def _replay(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _check_location(document: Document) -> None:
    for location in _find_members(document, "artifactlocation"):
        _check_inside(location)


def _check_trace(document: Document) -> None:
    """Raise TrackingLocationDenied where a tag of the trace says that its files are elsewhere."""
    unseen: list[object] = [document]
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict):
            if value.get("key") in _TRACE_LOCATIONS:
                _check_inside(value.get("value"))
            for name in _TRACE_LOCATIONS:
                _check_inside(value.get(name))
            unseen += value.values()
        elif isinstance(value, list):
            unseen += value


def _check_inside(location: object) -> None:
    """Raise TrackingLocationDenied unless the location is left out, or one within the artifact store."""
    if location and not (
        isinstance(location, str) and location.startswith(_ARTIFACTS_SCHEME) and not _climbs(location)
    ):
        raise TrackingLocationDenied(location)


def _climbs(location: str) -> bool:
    # A location that MLflow made itself holds no percent sign either.
    return "%" in location or ".." in location.split("/")


def _check_source(document: Document) -> None:
    for source in _find_members(document, "source"):
        if source and not (isinstance(source, str) and _SOURCE.fullmatch(source)):
            raise TrackingSourceDenied(source)


def _find_members(document: Document, folded: str) -> list[object]:
    """Every member whose name is that without case and underscores: each has to pass, whichever MLflow takes."""
    return [value for name, value in document.items() if name.replace("_", "").lower() == folded]


_JUDGES = {
    "/graphql": check_operations,
    "/api/2.0/mlflow/experiments/create": _check_location,
    "/api/2.0/mlflow/model-versions/create": _check_source,
    "/api/2.0/mlflow/traces": _check_trace,
    "/api/2.0/mlflow/traces/{request_id}": _check_trace,
    "/api/2.0/mlflow/traces/{request_id}/tags": _check_trace,
    "/api/3.0/mlflow/traces": _check_trace,
    "/api/3.0/mlflow/traces/{trace_id}/tags": _check_trace,
}
