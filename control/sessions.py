"""Coming to a token, and giving it back: OAuth 2's password flow (RFC 6749, sections 4.3 and 6), and signing out."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from control.documents import Answer, describe_problems
from control.requests import OpenConnections
from core.account_errors import NotSignedIn, SignInFailed, SignInRequestRejected, SignInThrottled
from core.principals import Role
from core.sign_in_sessions import end_session
from core.signing import read_token
from core.signing_in import Issued, check_sign_in, issue_tokens, refresh_tokens
from web.auditing import note_actor
from web.credentials import COOKIE, find_presented
from web.directory_follower import DirectoryFollower
from web.principal import require

router = APIRouter(tags=["accounts"])

_LONGEST = 1024
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

FormField = Annotated[str, Form(max_length=_LONGEST)]


class TokenDocument(Answer):
    """What a sign-in is answered with."""

    access_token: str = Field(description="Send it as `Authorization: Bearer …`")
    token_type: str = "bearer"  # noqa: S105  # OAuth 2's word for its kind
    expires_in: int = Field(description="Seconds for which the access token is valid")
    refresh_token: str = Field(description="Brings the next pair, once, by grant_type=refresh_token")


def find_address(request: Request) -> str:
    """The caller's address; trusted proxies say whose it is."""
    return request.client.host if request.client else "unknown"


def get_accounts(request: Request) -> DirectoryFollower:
    """The directory that the application was made with."""
    accounts: DirectoryFollower = request.app.state.accounts
    return accounts


FollowedAccounts = Annotated[DirectoryFollower, Depends(get_accounts)]


@router.post("/token", summary="Sign in, or go on being signed in", responses=describe_problems(400, 429))
def issue_token(
    request: Request,
    response: Response,
    connections: OpenConnections,
    accounts: FollowedAccounts,
    grant_type: FormField = "password",
    username: FormField = "",
    password: FormField = "",
    refresh_token: FormField = "",
) -> TokenDocument:
    """Take a name and a password (grant_type=password) or a refresh token (grant_type=refresh_token).

    The access token is valid for 15 minutes. A refresh token works once: if one is used twice, its session ends.
    """
    response.headers.update(_NO_STORE)
    try:
        if grant_type == "password":
            check_sign_in(connections.engine, username, password, find_address(request))
            note_actor(request.scope, username)
            return _answer(issue_tokens(connections.engine, username))
        if grant_type == "refresh_token":
            issued = refresh_tokens(connections.engine, refresh_token)
            note_actor(request.scope, issued.user)
            return _answer(issued)
    except (SignInFailed, SignInThrottled) as error:
        note_failed_sign_in(request, accounts, error)
        raise
    raise SignInRequestRejected(
        "unsupported_grant_type", "The grant type is not answered here: allowed are password and refresh_token."
    )


def note_failed_sign_in(request: Request, accounts: DirectoryFollower, error: SignInFailed | SignInThrottled) -> None:
    """Have the audit log name the user, if it is one: what else is typed as a name may be a password."""
    known = accounts.known
    if error.name is not None and known is not None and error.name in known.directory.roles:
        note_actor(request.scope, error.name)


@router.post(
    "/sign-out",
    status_code=204,
    summary="End the session that the request's token or cookie is of",
    dependencies=[Depends(require(Role.VIEWER))],
    responses=describe_problems(),
)
def sign_out(request: Request, connections: OpenConnections, accounts: FollowedAccounts) -> Response:
    """Nothing that was issued for the session works any more. An API token has none: it is revoked instead."""
    session_id = _find_session(request, accounts)
    if session_id is not None:
        with connections.engine.begin() as connection:
            end_session(connection, session_id)
        accounts.look()
    is_page = request.headers.get("accept", "").startswith("text/html")
    answer = RedirectResponse("/sign-in", 303) if is_page else Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _find_session(request: Request, accounts: DirectoryFollower) -> uuid.UUID | None:
    presented = find_presented(request.scope)
    known = accounts.known
    key = None if known is None else known.directory.signing_key
    if presented is None or key is None or presented.token.count(b".") != 2:
        return None
    try:
        signed_in = read_token(key, presented.token.decode("ascii"), "browser" if presented.is_cookie else "access")
    except NotSignedIn:
        # A provider's token: its session is the provider's.
        return None
    return uuid.UUID(signed_in.session_id)


def _answer(issued: Issued) -> TokenDocument:
    return TokenDocument(
        access_token=issued.access_token,
        expires_in=int(issued.lifetime.total_seconds()),
        refresh_token=issued.refresh_token,
    )
