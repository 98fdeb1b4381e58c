"""Who makes a request, and what the route asks of them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Security
from fastapi.security import OAuth2PasswordBearer
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from core.account_errors import NotSignedIn
from core.errors import MillraceError
from core.principals import ACTIONS, Action, Principal, Role

_SCOPE_KEY = "millrace.principal"

# For the description alone, and its page's button to sign in; `AccountDoor` reads the header.
_SCHEME = OAuth2PasswordBearer(
    tokenUrl="/token",
    refreshUrl="/token",
    scheme_name="account",
    description="A token of `millrace tokens create`, of POST /token, or of the OpenID Connect provider.",
    auto_error=False,
)


def note_principal(scope: Scope, found: Principal | MillraceError) -> None:
    """Note who makes the request, or why that is not known."""
    scope[_SCOPE_KEY] = found


def get_principal(request: HTTPConnection) -> Principal:
    """Who makes the request; raises NotSignedIn, or what else kept `AccountDoor` from finding out."""
    return _get_noted(request.scope)


def _get_noted(scope: Scope) -> Principal:
    found = scope.get(_SCOPE_KEY)
    if isinstance(found, Principal):
        return found
    raise found if isinstance(found, MillraceError) else NotSignedIn


def get_actor(request: HTTPConnection) -> str:
    """The name of the request's principal, as records keep it."""
    return get_principal(request).name


@dataclass(frozen=True)
class Requirement:
    """What a route asks of its caller: a role, and that the scopes of a token allow the action."""

    role: Role
    action: Action

    def __call__(self, request: HTTPConnection, _: Annotated[str | None, Security(_SCHEME)] = None) -> Principal:
        return self.check(request.scope)

    def check(self, scope: Scope, model: str | None = None) -> Principal:
        """The request's principal; raises NotSignedIn, RoleTooSmall, TokenRestricted.

        `model` is the one that is asked about, where the path does not name it.
        """
        principal = _get_noted(scope)
        principal.check(self.role, self.action, model or scope.get("path_params", {}).get("model"))
        return principal


def require(role: Role, action: Action | None = None) -> Requirement:
    """What a route depends on to be for this role and those above it; it answers with the principal.

    `action` is what the route does, for tokens that are restricted; without it what the role is asked for.
    """
    return Requirement(role, action or ACTIONS[role])


class RoleDoor:
    """The same for an ASGI application."""

    def __init__(self, app: ASGIApp, requirement: Requirement) -> None:
        self.requirement = requirement
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requirement.check(scope)
        await self._app(scope, receive, send)
