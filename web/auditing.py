"""From an answered request to its entry in the audit log.

Every changing request and every refusal has one. What a request is about is taken from its route; a route that knows
more, or whose caller has no principal yet (a sign-in), notes it.
"""

from starlette.requests import HTTPConnection
from starlette.types import Scope

from core.audit import AuditEntry, Process, build_outcome, now
from core.errors import MillraceError
from web.principal import get_principal
from web.problems import find_error_kind
from web.request_ids import get_request_id

REFUSALS = frozenset({401, 403, 429})
_REFUSED_SIGN_INS = frozenset({"sign-in-failed", "refresh-refused", "link-refused"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_NOTES_KEY = "millrace.audit_notes"


def note_action(scope: Scope, action: str, *, is_changing: bool) -> None:
    """Say what the request does, where that is not the route that the framework matched."""
    _get_notes(scope).update(action=action, is_changing=is_changing)


def note_subject(scope: Scope, *, model: str | None = None, target: str | None = None) -> None:
    """Say what the request is about."""
    _get_notes(scope).update(model=model, target=target)


def note_actor(scope: Scope, name: str, role: str | None = None) -> None:
    """Say who makes the request, where it is known already or the principal cannot say: the name that signs in."""
    _get_notes(scope).update(actor=name, role=role)


def is_changing(scope: Scope) -> bool:
    """Whether the request may have changed something: by what was noted, else by its method and that it has a route."""
    noted = _get_notes(scope).get("is_changing")
    if isinstance(noted, bool):
        return noted
    return scope["method"] not in _READING and scope.get("route") is not None


def build_entry(scope: Scope, status: int, process: Process) -> AuditEntry:
    """The entry of a request that was answered with `status`.

    Its caller is who was noted, else the request's principal.
    """
    notes = _get_notes(scope)
    actor, role = notes.get("actor"), notes.get("role")
    if actor is None:
        actor, role = _find_principal(scope)
    client = scope.get("client")
    reason = find_error_kind(scope) or f"http-{status}" if status >= 400 else None
    return AuditEntry(
        happened_at=now(),
        process=process,
        action=str(notes.get("action") or f"{scope['method']} {_find_path(scope)}"),
        # OAuth 2 has them answered with 400.
        outcome="refused" if reason in _REFUSED_SIGN_INS else build_outcome(status),
        status=status,
        reason=reason,
        actor=_text(actor),
        role=_text(role),
        client=str(client[0]) if client else None,
        model=_text(notes["model"] if "model" in notes else scope.get("path_params", {}).get("model")),
        target=_text(notes["target"] if "target" in notes else _find_target(scope)),
        request_id=get_request_id(scope),
    )


def _get_notes(scope: Scope) -> dict[str, object]:
    notes: dict[str, object] = scope.setdefault(_NOTES_KEY, {})
    return notes


def _find_principal(scope: Scope) -> tuple[str | None, str | None]:
    try:
        principal = get_principal(HTTPConnection(scope))
    except MillraceError as error:
        # Of some refusals the name is known: of a token that has expired, say.
        return getattr(error, "name", None), None
    return principal.name, principal.role.word


def _find_path(scope: Scope) -> str:
    # A path that has no route is the caller's own text.
    return str(getattr(scope.get("route"), "path", "(no fixed route)"))


def _find_target(scope: Scope) -> str | None:
    named = {name: value for name, value in scope.get("path_params", {}).items() if name != "model"}
    return ", ".join(f"{name} {value}" for name, value in named.items()) or None


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)
