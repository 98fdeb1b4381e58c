"""The door that every request goes through: it finds out who asks, and lets nobody unknown to what is not public."""

from collections.abc import Callable
from urllib.parse import quote

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from core.account_errors import ForeignOrigin, NotSignedIn, TokenRestricted
from core.errors import MillraceError
from core.principals import Principal
from web.credentials import Credentials, find_presented
from web.origins import READING, is_own_origin
from web.principal import note_principal
from web.public_routes import is_public
from web.request_ids import add_answer_headers

_UNRESTRICTED_ONLY = "/mlflow"
_LONG_BODY_BYTES = 64 * 1024


class AccountDoor:
    """An ASGI middleware. `shapes_errors(path)` says where a refusal is left to the route, which words it itself."""

    def __init__(
        self, app: ASGIApp, credentials: Credentials, shapes_errors: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._app = app
        self._credentials = credentials
        self._shapes_errors = shapes_errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            found: Principal | MillraceError = await self._identify(scope)
        except MillraceError as error:
            found = error
        note_principal(scope, found)
        path: str = scope["path"]
        if isinstance(found, MillraceError) and not is_public(path):
            if _has_long_body(scope):
                # It is not read to its end, so that nothing after it on this connection can be.
                add_answer_headers(scope, [(b"connection", b"close")])
            if isinstance(found, NotSignedIn) and _is_opened_page(scope):
                await RedirectResponse(f"/sign-in?next={quote(_build_place(scope))}", 303)(scope, receive, send)
                return
            if not self._shapes_errors(path):
                raise found
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Principal:
        presented = find_presented(scope)
        if presented is None:
            raise NotSignedIn
        principal = self._credentials.find_verified(presented)
        if principal is None:
            principal = await self._credentials.verify(presented)
        if presented.is_cookie and scope["method"] not in READING:
            _check_origin(scope, principal)
        if principal.scopes.is_restricting and _is_below(scope["path"], _UNRESTRICTED_ONLY):
            raise TokenRestricted(principal.name, principal.scopes.words, "MLflow, which knows no scopes")
        return principal


def _check_origin(scope: Scope, principal: Principal) -> None:
    """Raise ForeignOrigin unless the browser says that a page of ours makes the change."""
    request = HTTPConnection(scope)
    origin = request.headers.get("origin")
    if origin is None or not is_own_origin(request, origin):
        raise ForeignOrigin(origin, principal.name)


def _has_long_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and int(value) > _LONG_BODY_BYTES)
        for name, value in scope["headers"]
    )


def _is_opened_page(scope: Scope) -> bool:
    """Whether a person opens a page, rather than a program asking."""
    return scope["method"] == "GET" and any(
        name == b"accept" and value.startswith(b"text/html") for name, value in scope["headers"]
    )


def _build_place(scope: Scope) -> str:
    query = scope.get("query_string", b"").decode("latin-1")
    path: str = scope["path"]
    return f"{path}?{query}" if query else path


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")
