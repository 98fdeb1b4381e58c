"""Tokens of services and scripts: shown once, stored as a hash, with a role, scopes and an end."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, func, insert, or_, select, update

from core.account_changes import check_account_name, hash_secret, lock_accounts, make_secret, record_change
from core.account_errors import LifetimeRejected, TokenExists, TokenNotFound
from core.principals import UNRESTRICTED, Role, Scopes
from core.tables.accounts import api_tokens

TOKEN_PREFIX = "mlr_"  # noqa: S105  # what every token begins with
_MOST_DAYS = 3650
_INTERNAL_DAYS = 1 / 24


@dataclass(frozen=True)
class ApiToken:
    """A token, without its secret."""

    id: uuid.UUID
    name: str
    role: str
    scopes: Sequence[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


_COLUMNS = tuple(api_tokens.c[name] for name in ApiToken.__dataclass_fields__)


def create_token(
    connection: Connection,
    name: str,
    role: Role,
    *,
    created_by: str,
    scopes: Scopes = UNRESTRICTED,
    lifetime_days: float | None = None,
) -> str:
    """Make a token and return its secret, which is not kept.

    Raises AccountNameRejected, LifetimeRejected, and TokenExists where a valid token has the name.
    """
    check_account_name("token", name)
    if lifetime_days is not None and not 0 < lifetime_days <= _MOST_DAYS:
        raise LifetimeRejected(lifetime_days)
    lock_accounts(connection)
    _end_expired(connection)
    is_taken = select(api_tokens.c.id).where(api_tokens.c.name == name, api_tokens.c.revoked_at.is_(None))
    if connection.execute(is_taken).first() is not None:
        raise TokenExists(name)
    secret = make_secret(TOKEN_PREFIX)
    connection.execute(
        insert(api_tokens).values(
            id=uuid.uuid4(),
            name=name,
            hash=hash_secret(secret),
            role=role.word,
            scopes=scopes.words,
            created_by=created_by,
            expires_at=None if lifetime_days is None else datetime.now(UTC) + timedelta(days=lifetime_days),
        )
    )
    record_change(connection)
    return secret


def load_tokens(connection: Connection, *, is_whole: bool = False) -> list[ApiToken]:
    """The valid tokens by name; with `is_whole` those that were revoked or have expired too."""
    query = select(*_COLUMNS).order_by(api_tokens.c.name, api_tokens.c.created_at)
    if not is_whole:
        query = query.where(
            api_tokens.c.revoked_at.is_(None),
            or_(api_tokens.c.expires_at.is_(None), api_tokens.c.expires_at > func.now()),
        )
    return [ApiToken(*row) for row in connection.execute(query)]


def revoke_token(connection: Connection, name: str) -> None:
    """End the valid token of that name; raises TokenNotFound."""
    statement = (
        update(api_tokens)
        .where(api_tokens.c.name == name, api_tokens.c.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )
    if connection.execute(statement).rowcount == 0:
        raise TokenNotFound(name)
    record_change(connection)


def note_uses(connection: Connection, used_at: Mapping[uuid.UUID, datetime]) -> None:
    """Keep when tokens were used last; an earlier time changes nothing."""
    for token_id, at in used_at.items():
        last = func.greatest(api_tokens.c.last_used_at, at)
        connection.execute(update(api_tokens).where(api_tokens.c.id == token_id).values(last_used_at=last))


@contextmanager
def internal_token(engine: Engine, name: str, role: Role) -> Iterator[str]:
    """A token for a command of the platform's own, valid for the block and at most an hour."""
    name = f"{name}-{uuid.uuid4().hex[:12]}"
    with engine.begin() as connection:
        secret = create_token(connection, name, role, created_by="millrace", lifetime_days=_INTERNAL_DAYS)
    try:
        yield secret
    finally:
        with engine.begin() as connection:
            revoke_token(connection, name)


def _end_expired(connection: Connection) -> None:
    """An expired token's name is free for the next one."""
    connection.execute(
        update(api_tokens)
        .where(api_tokens.c.revoked_at.is_(None), api_tokens.c.expires_at <= func.now())
        .values(revoked_at=api_tokens.c.expires_at)
    )
