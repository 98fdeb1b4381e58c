"""Short-lived tokens (JWT, HS256) of people who have signed in; every machine has the key from the database."""

import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import jwt
from sqlalchemy import Connection, select, update

from core.account_changes import lock_accounts
from core.account_errors import NotSignedIn
from core.tables.accounts import account_state

ACCESS_LIFETIME = timedelta(minutes=15)
ISSUER = "millrace"
_ALGORITHM = "HS256"
_KEY_BYTES = 32
_REQUIRED = ["sub", "sid", "use", "iat", "exp", "iss", "aud"]

Use = Literal["access", "browser"]


@dataclass(frozen=True)
class SignedIn:
    """What a token of ours says: who, in which session, and until when (seconds since 1970)."""

    user: str
    session_id: str
    expires_at_s: float


def ensure_signing_key(connection: Connection) -> bytes:
    """The key that signs, made by whichever process asks first."""
    key: bytes | None = connection.scalar(select(account_state.c.signing_key))
    if key is None:
        lock_accounts(connection)
        key = connection.scalar(select(account_state.c.signing_key))
    if key is None:
        key = secrets.token_bytes(_KEY_BYTES)
        connection.execute(update(account_state).values(signing_key=key))
    return key


def issue_token(key: bytes, user: str, session_id: uuid.UUID, use: Use, lifetime: timedelta) -> str:
    """A token that says who has signed in; it is for one use, so that a page's cookie is no token of a script's."""
    now = time.time()
    claims = {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": user,
        "sid": str(session_id),
        "use": use,
        "iat": int(now),
        "exp": int(now + lifetime.total_seconds()),
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def read_token(key: bytes, token: str, use: Use) -> SignedIn:
    """What a token of ours says, if it is ours, for this use and in time; raises NotSignedIn."""
    try:
        claims = jwt.decode(
            token, key, algorithms=[_ALGORITHM], issuer=ISSUER, audience=ISSUER, options={"require": _REQUIRED}
        )
    except jwt.ExpiredSignatureError as error:
        raise NotSignedIn("The token has expired") from error
    except jwt.InvalidTokenError as error:
        raise NotSignedIn("The token is not valid") from error
    if claims["use"] != use:
        raise NotSignedIn("The token is for another use")
    return SignedIn(str(claims["sub"]), str(claims["sid"]), float(claims["exp"]))
