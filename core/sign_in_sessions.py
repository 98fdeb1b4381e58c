"""Sessions: what a person has from signing in until signing out, with the refresh tokens that continue it.

A refresh token works once and is answered with the next one. Where a used one comes again, somebody else has a copy,
and nobody can say who: the session ends. Source: OAuth 2.0 Security Best Current Practice (RFC 9700), section 4.14.2.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select, update

from core.account_changes import hash_secret, make_secret, record_change
from core.account_errors import RefreshRefused
from core.tables.accounts import refresh_tokens, sign_in_sessions, users

REFRESH_PREFIX = "mlrr_"
SESSION_LIFETIME = timedelta(days=7)
BROWSER_LIFETIME = timedelta(hours=12)
_KEPT_AFTER_END = timedelta(days=1)


@dataclass(frozen=True)
class Continued:
    """The session of a refresh token; `is_valid` where the token may continue it."""

    user: str
    session_id: uuid.UUID
    is_valid: bool


def start_session(connection: Connection, user: str, lifetime: timedelta) -> uuid.UUID:
    """Begin a session of the user."""
    session_id = uuid.uuid4()
    expires_at = datetime.now(UTC) + lifetime
    connection.execute(insert(sign_in_sessions).values(id=session_id, user_name=user, expires_at=expires_at))
    # What nothing can be signed with any more.
    connection.execute(delete(sign_in_sessions).where(sign_in_sessions.c.expires_at < func.now() - _KEPT_AFTER_END))
    connection.execute(update(users).where(users.c.name == user).values(signed_in_at=func.now()))
    return session_id


def issue_refresh_token(connection: Connection, session_id: uuid.UUID) -> str:
    """The next refresh token of a session."""
    secret = make_secret(REFRESH_PREFIX)
    connection.execute(insert(refresh_tokens).values(hash=hash_secret(secret), session_id=session_id))
    return secret


def use_refresh_token(connection: Connection, secret: str) -> Continued:
    """What the token continues; it does not work again. A token that was used before ends its session.

    Raises RefreshRefused for a token that was never issued.
    """
    row = connection.execute(
        select(
            sign_in_sessions.c.id,
            sign_in_sessions.c.user_name,
            sign_in_sessions.c.expires_at,
            sign_in_sessions.c.ended_at,
            refresh_tokens.c.used_at,
            users.c.is_disabled,
        )
        .join(sign_in_sessions, sign_in_sessions.c.id == refresh_tokens.c.session_id)
        .join(users, users.c.name == sign_in_sessions.c.user_name)
        .where(refresh_tokens.c.hash == hash_secret(secret))
        # Of two that bring the same token at once, one is the first.
        .with_for_update(of=refresh_tokens)
    ).one_or_none()
    if row is None:
        raise RefreshRefused
    is_over = row.ended_at is not None or row.expires_at <= datetime.now(UTC) or row.is_disabled
    if row.used_at is not None and not is_over:
        end_session(connection, row.id)
    connection.execute(
        update(refresh_tokens).where(refresh_tokens.c.hash == hash_secret(secret)).values(used_at=func.now())
    )
    return Continued(row.user_name, row.id, is_valid=row.used_at is None and not is_over)


def end_session(connection: Connection, session_id: uuid.UUID) -> None:
    """End one session: nothing that was issued for it works any more."""
    connection.execute(
        update(sign_in_sessions)
        .where(sign_in_sessions.c.id == session_id, sign_in_sessions.c.ended_at.is_(None))
        .values(ended_at=func.now())
    )
    record_change(connection)


def end_sessions(connection: Connection, user: str) -> None:
    """End every session of the user."""
    connection.execute(
        update(sign_in_sessions)
        .where(sign_in_sessions.c.user_name == user, sign_in_sessions.c.ended_at.is_(None))
        .values(ended_at=func.now())
    )
    record_change(connection)
