"""Who is known: everything that a web process needs to recognise a request's sender without asking the database."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Row, func, select

from core.principals import Principal, Role, Scopes
from core.sign_in_sessions import BROWSER_LIFETIME
from core.signing import ensure_signing_key
from core.tables.accounts import account_state, api_tokens, sign_in_sessions, users


@dataclass(frozen=True)
class KnownToken:
    """A valid token; `expires_at_s` in seconds since 1970."""

    id: uuid.UUID
    principal: Principal
    expires_at_s: float


@dataclass(frozen=True)
class Directory:
    """Valid tokens by their hash, roles of users who may sign in, and the sessions that have ended lately.

    Without the database the signing key is not known (None), and no signed token can be checked.
    """

    change: int
    tokens: Mapping[bytes, KnownToken]
    roles: Mapping[str, Role]
    ended_sessions: frozenset[str]
    signing_key: bytes | None


def load_change(connection: Connection) -> int:
    """The number of the last change of accounts."""
    return int(connection.scalar(select(account_state.c.change)) or 0)


def load_directory(connection: Connection) -> Directory:
    """Who is known now. The change is read first: what changes meanwhile is found by the next look."""
    change = load_change(connection)
    is_valid = api_tokens.c.revoked_at.is_(None)
    tokens = {bytes(row.hash): _build_token(row) for row in connection.execute(select(api_tokens).where(is_valid))}
    rows = connection.execute(select(users.c.name, users.c.role).where(users.c.is_disabled.is_(False)))
    roles = {row.name: Role[row.role.upper()] for row in rows}
    # No signed token is valid longer than a browser's.
    is_recent = sign_in_sessions.c.ended_at > func.now() - BROWSER_LIFETIME * 2
    ended = connection.scalars(select(sign_in_sessions.c.id).where(is_recent))
    return Directory(change, tokens, roles, frozenset(map(str, ended)), ensure_signing_key(connection))


def name_token(name: str) -> str:
    """How records name a token as an actor: no user can have that name."""
    return f"token:{name}"


def build_known_token(
    token_id: uuid.UUID, name: str, role: str, scopes: list[str], expires_at: datetime | None
) -> KnownToken:
    """What is known of a token."""
    return KnownToken(
        token_id,
        Principal(name_token(name), Role[role.upper()], Scopes.parse(scopes)),
        float("inf") if expires_at is None else expires_at.astimezone(UTC).timestamp(),
    )


def _build_token(row: Row[tuple[object, ...]]) -> KnownToken:
    return build_known_token(row.id, row.name, row.role, row.scopes, row.expires_at)
