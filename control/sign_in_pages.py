"""Pages for signing in with a browser, where a cookie takes a token's place: MLflow's pages and reports are opened so.

The cookie is HttpOnly, SameSite=Strict and, behind TLS, Secure. The pages carry no script and load nothing.
"""

import base64
import hashlib
from html import escape
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from control.requests import OpenConnections
from control.sessions import FollowedAccounts, find_address, note_failed_sign_in
from core.account_errors import LinkRefused, SignInFailed, SignInThrottled
from core.errors import InvalidInput, MillraceError
from core.one_time_links import PATH, check_code, make_first_administrator
from core.settings import MINIMUM_PASSWORD_CHARS
from core.sign_in_sessions import BROWSER_LIFETIME
from core.signing_in import check_sign_in, issue_cookie
from web.auditing import note_actor, note_subject
from web.credentials import COOKIE
from web.principal import get_principal
from web.problems import name_problem, note_error

router = APIRouter(include_in_schema=False)

_AFTER = "/docs"
_LONGEST = 1024
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2024; background: #f4f5f6; margin: 0; }
main { max-width: 22rem; margin: 12vh auto; padding: 2rem; background: #fff; border: 1px solid #d9dde1;
  border-radius: 8px; }
h1 { font-size: 1.25rem; margin: 0 0 1rem; }
label { display: block; margin: 0.75rem 0 0.25rem; font-weight: 600; }
input { box-sizing: border-box; width: 100%; padding: 0.5rem; font: inherit; border: 1px solid #8b949c;
  border-radius: 4px; }
button { margin-top: 1.25rem; width: 100%; padding: 0.6rem; font: inherit; font-weight: 600; color: #fff;
  background: #1f5f8b; border: 0; border-radius: 4px; cursor: pointer; }
input:focus-visible, button:focus-visible { outline: 3px solid #7db4d9; outline-offset: 1px; }
.fault { margin: 0; padding: 0.5rem 0.75rem; background: #fdecea; border-left: 4px solid #b3261e; }
.note { color: #565e66; font-size: 0.9rem; margin: 0.25rem 0 0; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # With no referrer at all a browser names no origin for what its forms send.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

FormText = Annotated[str, Form(max_length=_LONGEST)]
QueryText = Annotated[str, Query(max_length=_LONGEST)]


@router.get("/sign-in")
def show_sign_in(request: Request, next: QueryText = _AFTER) -> Response:  # the field's name
    """The form, or who is signed in and the way out."""
    try:
        name = get_principal(request).name
    except MillraceError:
        return _build_page("Sign in", _build_sign_in(next))
    text = f"<p>You are signed in as <strong>{escape(name)}</strong>.</p>"
    return _build_page("Signed in", f'{text}<form method="post" action="/sign-out"><button>Sign out</button></form>')


@router.post("/sign-in")
def sign_in(
    request: Request,
    connections: OpenConnections,
    accounts: FollowedAccounts,
    name: FormText = "",
    password: FormText = "",
    next: FormText = _AFTER,
) -> Response:
    """Take the form; a wrong password is answered with the form again."""
    try:
        check_sign_in(connections.engine, name, password, find_address(request))
    except (SignInFailed, SignInThrottled) as error:
        note_failed_sign_in(request, accounts, error)
        return _show_again(request, error, "Sign in", _build_sign_in(next, name))
    return _enter(request, connections, name, next)


@router.get(PATH)
def show_first_administrator(request: Request, connections: OpenConnections, code: QueryText = "") -> Response:
    """The form of the one-time link; opening it does not use it up."""
    try:
        with connections.engine.connect() as connection:
            check_code(connection, code)
    except LinkRefused as error:
        return _show_again(request, error, "First administrator", "")
    return _build_page("First administrator", _build_first(code))


@router.post(PATH)
def add_first_administrator(
    request: Request,
    connections: OpenConnections,
    accounts: FollowedAccounts,
    code: FormText = "",
    name: FormText = "",
    password: FormText = "",
) -> Response:
    """Make the administrator, and sign them in."""
    try:
        with connections.engine.begin() as connection:
            make_first_administrator(connection, code, name, password)
    except LinkRefused as error:
        return _show_again(request, error, "First administrator", "")
    except InvalidInput as error:
        return _show_again(request, error, "First administrator", _build_first(code, name))
    accounts.look()
    note_subject(request.scope, target=f"user {name}")
    return _enter(request, connections, name, _AFTER)


def _enter(request: Request, connections: OpenConnections, name: str, place: str) -> Response:
    note_actor(request.scope, name)
    answer = RedirectResponse(_check_place(place), 303, headers={"Cache-Control": "no-store"})
    answer.set_cookie(
        COOKIE,
        issue_cookie(connections.engine, name),
        max_age=int(BROWSER_LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


def _check_place(place: str) -> str:
    """The place itself if it is an address of this site, so that no link to the page leads to another site."""
    try:
        parts = urlsplit(place.replace("\\", "/"))
    except ValueError:
        return _AFTER
    is_ours = not parts.scheme and not parts.netloc and parts.path.startswith("/") and place.isprintable()
    return place if is_ours and not place.startswith("//") else _AFTER


def _show_again(request: Request, error: MillraceError, title: str, form: str) -> Response:
    status = 410 if isinstance(error, LinkRefused) else 400
    page = _build_page(title, f'<p class="fault" role="alert">{escape(error.sentence)}</p>{form}', status)
    if isinstance(error, SignInThrottled):
        page.status_code = 429
        page.headers["Retry-After"] = str(error.retry_after_s)
    note_error(request.scope, name_problem(error))
    return page


def _build_sign_in(place: str, name: str = "") -> str:
    return f"""<form method="post" action="/sign-in">
<input type="hidden" name="next" value="{escape(_check_place(place))}">
{_build_fields(name, "current-password")}
<button>Sign in</button>
</form>"""


def _build_first(code: str, name: str = "") -> str:
    return f"""<p>This platform has no administrator yet. Whoever has this link becomes the first one.</p>
<form method="post" action="{PATH}">
<input type="hidden" name="code" value="{escape(code)}">
{_build_fields(name, "new-password")}
<p class="note">At least {MINIMUM_PASSWORD_CHARS} characters.</p>
<button>Become administrator</button>
</form>"""


def _build_fields(name: str, kind: str) -> str:
    return f"""<label for="name">Name</label>
<input id="name" name="name" value="{escape(name)}" autocomplete="username" autocapitalize="none" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="{kind}" required>"""


def _build_page(title: str, content: str, status: int = 200) -> Response:
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Millrace</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Millrace: {title.lower()}</h1>
{content}
</main>
</body>
</html>
"""
    return HTMLResponse(page, status, _HEADERS)
