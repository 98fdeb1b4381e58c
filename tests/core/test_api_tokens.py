"""Tokens of services, on a real database."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, update

from core.account_changes import hash_secret
from core.account_errors import (
    AccountNameRejected,
    LifetimeRejected,
    RoleTooSmall,
    ScopeRejected,
    TokenExists,
    TokenNotFound,
    TokenRestricted,
)
from core.api_tokens import create_token, internal_token, load_tokens, note_uses, revoke_token
from core.directory import load_directory
from core.principals import Action, Principal, Role, Scopes
from core.tables.accounts import api_tokens
from tests.core.test_signing_in import HOSTILE


def create(engine: Engine, name: str, lifetime_days: float | None = None) -> str:
    with engine.begin() as connection:
        return create_token(connection, name, Role.OPERATOR, created_by="anna", lifetime_days=lifetime_days)


def test_token_is_stored_as_a_hash_and_known_by_it(engine: Engine) -> None:
    secret = create(engine, "ci")
    assert secret.startswith("mlr_") and len(secret) > 40
    with engine.begin() as connection:
        row = connection.execute(select(api_tokens)).one()
        assert secret not in repr(row) and secret.encode() not in bytes(row.hash)
        known = load_directory(connection).tokens
    assert known[hash_secret(secret)].principal == Principal("token:ci", Role.OPERATOR)


def test_name_is_free_again_when_the_token_is_revoked_or_over(engine: Engine) -> None:
    create(engine, "ci", lifetime_days=1)
    with pytest.raises(TokenExists):
        create(engine, "ci")
    with engine.begin() as connection:
        revoke_token(connection, "ci")
        assert load_directory(connection).tokens == {}
    with engine.begin() as connection, pytest.raises(TokenNotFound):
        revoke_token(connection, "ci")
    create(engine, "ci", lifetime_days=1)
    with engine.begin() as connection:
        connection.execute(update(api_tokens).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
        assert load_tokens(connection) == []
    create(engine, "ci")
    with engine.connect() as connection:
        assert len(load_tokens(connection)) == 1
        assert len(load_tokens(connection, is_whole=True)) == 3


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(AccountNameRejected):
        create(engine, name)


def test_lifetime_is_bounded(engine: Engine) -> None:
    for days in (0.0, -1.0, 3651.0, float("nan")):
        with pytest.raises(LifetimeRejected):
            create(engine, "ci", lifetime_days=days)


def test_last_use_only_moves_on(engine: Engine) -> None:
    create(engine, "ci")
    now = datetime.now(UTC)
    with engine.begin() as connection:
        token_id = load_tokens(connection)[0].id
        note_uses(connection, {token_id: now})
        note_uses(connection, {token_id: now - timedelta(hours=1)})
        assert load_tokens(connection)[0].last_used_at == now


def test_internal_token_ends_with_its_block(engine: Engine) -> None:
    with internal_token(engine, "demo", Role.VIEWER) as secret, engine.begin() as connection:
        assert hash_secret(secret) in load_directory(connection).tokens
    with engine.begin() as connection:
        assert load_directory(connection).tokens == {}


def test_scopes_restrict_within_the_role() -> None:
    scopes = Scopes.parse(["predict", "model:prices"])
    assert scopes.words == ["predict", "model:prices"]
    service = Principal("token:ci", Role.OPERATOR, scopes)
    service.check(Role.VIEWER, Action.PREDICT, "prices")
    for role, action, model in (
        (Role.VIEWER, Action.READ, "prices"),
        (Role.OPERATOR, Action.OPERATE, "prices"),
        (Role.VIEWER, Action.PREDICT, "books"),
        (Role.VIEWER, Action.PREDICT, None),
    ):
        with pytest.raises(TokenRestricted, match="predict, model:prices"):
            service.check(role, action, model)
    with pytest.raises(RoleTooSmall, match="this needs administrator"):
        service.check(Role.ADMINISTRATOR, Action.ADMINISTER, "prices")
    for wrong in ("", "admin", "model:", "model:../x", "model:Prices", "read predict"):
        with pytest.raises(ScopeRejected):
            Scopes.parse([wrong])
