"""Signing in, going on, and signing out: from a name and a password to tokens."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine, select, update

from core.account_errors import RefreshRefused, SignInFailed
from core.passwords import hash_password, is_password, needs_rehash
from core.sign_in_attempts import count_attempt, forget_attempts
from core.sign_in_sessions import (
    BROWSER_LIFETIME,
    SESSION_LIFETIME,
    issue_refresh_token,
    start_session,
    use_refresh_token,
)
from core.signing import ACCESS_LIFETIME, ensure_signing_key, issue_token
from core.tables.accounts import users


@dataclass(frozen=True)
class Issued:
    """A user's short-lived token, and the refresh token that the next one is had for."""

    user: str
    access_token: str
    refresh_token: str
    lifetime: timedelta = ACCESS_LIFETIME


def check_sign_in(engine: Engine, name: str, password: str, address: str) -> None:
    """Return if the password is that of the user, who may sign in.

    Raises SignInThrottled, and SignInFailed, which takes as long for a name that nobody has. `address` is the caller's.
    """
    # Neither fits in the database: nobody has such a name or password.
    is_text = "\0" not in name
    with engine.begin() as connection:
        count_attempt(connection, name, address)
        query = select(users.c.password_hash, users.c.is_disabled).where(users.c.name == name)
        row = connection.execute(query).one_or_none() if is_text else None
    is_right = is_password(None if row is None else row.password_hash, password)
    if row is None or not is_right or row.is_disabled:
        raise SignInFailed(name)
    stronger = hash_password(password) if needs_rehash(row.password_hash) else None
    with engine.begin() as connection:
        forget_attempts(connection, name, address)
        if stronger is not None:
            is_unchanged = users.c.password_hash == row.password_hash
            connection.execute(update(users).where(users.c.name == name, is_unchanged).values(password_hash=stronger))


def issue_tokens(engine: Engine, user: str) -> Issued:
    """The tokens of a new session of a user whose password was right."""
    with engine.begin() as connection:
        session_id = start_session(connection, user, SESSION_LIFETIME)
        refresh_token = issue_refresh_token(connection, session_id)
        key = ensure_signing_key(connection)
    return Issued(user, issue_token(key, user, session_id, "access", ACCESS_LIFETIME), refresh_token)


def refresh_tokens(engine: Engine, secret: str) -> Issued:
    """The next tokens of a session; raises RefreshRefused, which has ended the session if the token was used before."""
    with engine.begin() as connection:
        continued = use_refresh_token(connection, secret)
    # After the end of the session is stored.
    if not continued.is_valid:
        raise RefreshRefused(continued.user)
    with engine.begin() as connection:
        refresh_token = issue_refresh_token(connection, continued.session_id)
        key = ensure_signing_key(connection)
    access_token = issue_token(key, continued.user, continued.session_id, "access", ACCESS_LIFETIME)
    return Issued(continued.user, access_token, refresh_token)


def issue_cookie(engine: Engine, user: str) -> str:
    """What a browser's cookie holds for a new session of a user whose password was right."""
    with engine.begin() as connection:
        session_id = start_session(connection, user, BROWSER_LIFETIME)
        key = ensure_signing_key(connection)
    return issue_token(key, user, session_id, "browser", BROWSER_LIFETIME)
