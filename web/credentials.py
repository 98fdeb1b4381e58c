"""From a request's token or cookie to its principal."""

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple

import jwt
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from core.account_changes import hash_secret
from core.account_errors import AccountsUnknown, NotSignedIn
from core.api_tokens import TOKEN_PREFIX
from core.principals import Principal
from core.signing import read_token
from web.directory_follower import DirectoryFollower, Known, Verified
from web.openid import OpenIdProvider

COOKIE = "millrace_session"
_LONGEST = 16 * 1024
_PREFIX = TOKEN_PREFIX.encode()


class Presented(NamedTuple):
    """What a request carries to say who asks."""

    token: bytes
    is_cookie: bool

    @property
    def digest(self) -> bytes:
        """Under which it is remembered; a cookie is not the token that it looks like."""
        # After the hash: before it a token could be written that looks like a cookie.
        return hashlib.blake2b(self.token, digest_size=32).digest() + (b"cookie" if self.is_cookie else b"")


def find_presented(scope: Scope) -> Presented | None:
    """The token of the Authorization header, else the session's cookie; None where there is neither.

    The token may be the password of HTTP Basic (RFC 7617), for clients that can be given no other header, as from a
    .netrc file. Raises NotSignedIn for an Authorization header that holds no token.
    """
    cookies = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            token = token.strip()
            if len(token) <= _LONGEST and scheme.lower() == b"basic":
                token = _find_password(token)
            elif scheme.lower() != b"bearer":
                token = b""
            if not token or len(token) > _LONGEST:
                raise NotSignedIn("The Authorization header holds no bearer token")
            return Presented(token, is_cookie=False)
        if name == b"cookie":
            cookies = value
    if COOKIE.encode() not in cookies:
        return None
    token = _find_cookie(cookies)
    return Presented(token, is_cookie=True) if token else None


class Credentials:
    """Recognises tokens by the directory of accounts and by the provider's keys."""

    def __init__(self, accounts: DirectoryFollower, provider: OpenIdProvider | None) -> None:
        self._accounts = accounts
        self._provider = provider
        self._looking = asyncio.Lock()

    def find_verified(self, presented: Presented) -> Principal | None:
        """Whose credential this is, if it was verified before and nothing has changed since: at once."""
        known = self._accounts.known
        verified = None if known is None else known.verified.get(presented.digest)
        if verified is None or verified.expires_at_s <= time.time():
            return None
        if verified.token_id is not None:
            self._accounts.note_use(verified.token_id)
        return verified.principal

    async def verify(self, presented: Presented) -> Principal:
        """Whose credential this is; raises NotSignedIn, AccountsUnknown, ProviderUnavailable.

        One that is not known may be newer than the last look at the accounts: they are looked at once more.
        """
        came_s = time.monotonic()
        try:
            return await self._verify(presented)
        except (NotSignedIn, AccountsUnknown):
            if self._accounts.looked_at_s >= came_s:
                raise
        # However many wait, one thread looks, and one look answers all that came before it.
        async with self._looking:
            if self._accounts.looked_at_s < came_s:
                await run_in_threadpool(self._accounts.look)
        return await self._verify(presented)

    async def _verify(self, presented: Presented) -> Principal:
        known = self._accounts.known
        if known is None:
            raise AccountsUnknown
        verified = await self._read(known, presented)
        if verified.expires_at_s <= time.time():
            raise NotSignedIn("The token has expired", verified.principal.name)
        known.keep(presented.digest, verified)
        if verified.token_id is not None:
            self._accounts.note_use(verified.token_id)
        return verified.principal

    async def _read(self, known: Known, presented: Presented) -> Verified:
        if presented.token.startswith(_PREFIX) and not presented.is_cookie:
            token = known.directory.tokens.get(hash_secret(presented.token))
            if token is None:
                raise NotSignedIn("The token is not known, or was revoked")
            return Verified(token.principal, token.expires_at_s, token.id)
        try:
            text = presented.token.decode("ascii")
            issuer = jwt.decode(text, options={"verify_signature": False}).get("iss")
        except (UnicodeDecodeError, jwt.InvalidTokenError):
            raise NotSignedIn("The token is not valid") from None
        if self._provider is not None and not presented.is_cookie and issuer == self._provider.issuer:
            principal, expires_at_s = await self._provider.verify(text)
            return Verified(principal, expires_at_s)
        return self._read_own(known, text, is_cookie=presented.is_cookie)

    def _read_own(self, known: Known, text: str, *, is_cookie: bool) -> Verified:
        key = known.directory.signing_key
        if key is None:
            raise AccountsUnknown
        signed_in = read_token(key, text, "browser" if is_cookie else "access")
        role = known.directory.roles.get(signed_in.user)
        if role is None or signed_in.session_id in known.directory.ended_sessions:
            raise NotSignedIn("The session has ended", signed_in.user)
        return Verified(Principal(signed_in.user, role), signed_in.expires_at_s)


def _find_password(credentials: bytes) -> bytes:
    """The password of HTTP Basic's `user:password`, whoever the user; empty where there is none."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _find_cookie(cookies: bytes) -> bytes:
    try:
        parsed: Mapping[str, object] = SimpleCookie(cookies.decode("latin-1"))
    except CookieError:
        return b""
    morsel = parsed.get(COOKIE)
    value = str(getattr(morsel, "value", ""))
    return value.encode("latin-1", "replace")[:_LONGEST]
