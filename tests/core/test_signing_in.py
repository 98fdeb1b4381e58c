"""Users, sessions and tries to sign in, on a real database."""

from datetime import timedelta

import jwt
import pytest
from sqlalchemy import Engine, select, update

from core.account_errors import (
    AccountNameRejected,
    LastAdministrator,
    LinkRefused,
    NotSignedIn,
    PasswordRejected,
    RefreshRefused,
    SignInFailed,
    SignInThrottled,
    UserExists,
    UserNotFound,
)
from core.directory import load_directory
from core.one_time_links import check_code, create_link, make_first_administrator
from core.passwords import is_password
from core.principals import Role
from core.sign_in_attempts import ACCOUNT_TRIES, ADDRESS_TRIES, WINDOW
from core.signing import read_token
from core.signing_in import check_sign_in, issue_tokens, refresh_tokens
from core.tables.accounts import one_time_links, sign_in_attempts, users
from core.users import add_user, load_users, set_disabled, set_password, set_role

PASSWORD = "correct horse battery"
HOSTILE = [
    "",
    "../../etc/passwd",
    "a' OR '1'='1",
    'a"; DROP TABLE users; --',
    "a\0b",
    "Anna",
    "a" * 65,
    "ä",
    "-x",
    "a b",
]


def add(engine: Engine, name: str, role: Role = Role.VIEWER) -> None:
    with engine.begin() as connection:
        add_user(connection, name, PASSWORD, role, created_by="test")


def sign_in(engine: Engine, name: str, password: str = PASSWORD, address: str = "10.0.0.1") -> None:
    check_sign_in(engine, name, password, address)


# --- users -------------------------------------------------------------------------------------------------------


def test_password_is_stored_as_argon2id_and_nowhere_else(engine: Engine) -> None:
    add(engine, "anna")
    with engine.connect() as connection:
        stored = connection.scalar(select(users.c.password_hash))
        assert PASSWORD not in repr(load_users(connection))
    assert stored is not None and stored.startswith("$argon2id$")
    assert is_password(stored, PASSWORD)
    assert not is_password(stored, PASSWORD + " ")
    assert not is_password(None, PASSWORD)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_refused_and_signs_nobody_in(engine: Engine, name: str) -> None:
    with pytest.raises(AccountNameRejected):
        add(engine, name)
    with pytest.raises(SignInFailed):
        sign_in(engine, name)


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "a-user-of-ours", "x" * 257])
def test_weak_password_is_refused_without_being_repeated(engine: Engine, password: str) -> None:
    with engine.begin() as connection, pytest.raises(PasswordRejected) as refused:
        add_user(connection, "a-user-of-ours", password, Role.VIEWER, created_by="test")
    assert password not in refused.value.sentence


def test_last_administrator_stays_one(engine: Engine) -> None:
    add(engine, "anna", Role.ADMINISTRATOR)
    with engine.begin() as connection, pytest.raises(LastAdministrator):
        set_disabled(connection, "anna", is_disabled=True)
    with engine.begin() as connection, pytest.raises(LastAdministrator):
        set_role(connection, "anna", Role.VIEWER)
    add(engine, "bob", Role.ADMINISTRATOR)
    with engine.begin() as connection:
        set_disabled(connection, "anna", is_disabled=True)
    with engine.begin() as connection, pytest.raises(LastAdministrator):
        set_role(connection, "bob", Role.OPERATOR)
    with pytest.raises(UserExists):
        add(engine, "anna")
    with engine.begin() as connection, pytest.raises(UserNotFound):
        set_role(connection, "carl", Role.OPERATOR)


def test_disabled_user_is_answered_as_a_wrong_password(engine: Engine) -> None:
    add(engine, "anna")
    sign_in(engine, "anna")
    issued = issue_tokens(engine, "anna")
    with engine.begin() as connection:
        set_disabled(connection, "anna", is_disabled=True)
    sentences = []
    for name, password in (("anna", PASSWORD), ("anna", "wrong password"), ("nobody", PASSWORD)):
        with pytest.raises(SignInFailed) as failed:
            sign_in(engine, name, password)
        assert failed.value.name == name
        sentences.append(failed.value.sentence)
    assert len(set(sentences)) == 1
    with pytest.raises(RefreshRefused):
        refresh_tokens(engine, issued.refresh_token)


# --- sessions ----------------------------------------------------------------------------------------------------


def test_token_says_who_and_is_refused_when_tampered_with(engine: Engine) -> None:
    add(engine, "anna")
    token = issue_tokens(engine, "anna").access_token
    with engine.begin() as connection:
        key = load_directory(connection).signing_key
    assert key is not None
    assert read_token(key, token, "access").user == "anna"
    claims = jwt.decode(token, options={"verify_signature": False})
    head, body, signature = token.split(".")
    for wrong in (
        jwt.encode(claims | {"sub": "bob"}, b"k" * 32, algorithm="HS256"),
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(claims | {"exp": 1}, key, algorithm="HS256"),
        jwt.encode(claims | {"aud": "other"}, key, algorithm="HS256"),
        jwt.encode({**claims, "iss": "https://other"}, key, algorithm="HS256"),
        jwt.encode({name: claims[name] for name in claims if name != "exp"}, key, algorithm="HS256"),
        f"{head}.{body}.{signature[:-4]}AAAA",
    ):
        with pytest.raises(NotSignedIn):
            read_token(key, wrong, "access")
    with pytest.raises(NotSignedIn, match="another use"):
        read_token(key, token, "browser")


def test_refresh_token_used_twice_ends_its_session(engine: Engine) -> None:
    add(engine, "anna")
    first = issue_tokens(engine, "anna")
    other = issue_tokens(engine, "anna")
    second = refresh_tokens(engine, first.refresh_token)
    with pytest.raises(RefreshRefused) as reused:
        refresh_tokens(engine, first.refresh_token)
    assert reused.value.name == "anna"
    with pytest.raises(RefreshRefused):
        refresh_tokens(engine, second.refresh_token)
    session_id = jwt.decode(second.access_token, options={"verify_signature": False})["sid"]
    with engine.begin() as connection:
        assert load_directory(connection).ended_sessions == {session_id}
    # Another session of the same person goes on.
    refresh_tokens(engine, other.refresh_token)
    for wrong in ("", "mlrr_made-up", "a' OR '1'='1"):
        with pytest.raises(RefreshRefused):
            refresh_tokens(engine, wrong)


def test_new_password_ends_what_was_signed_in_with_the_old_one(engine: Engine) -> None:
    add(engine, "anna")
    issued = issue_tokens(engine, "anna")
    with engine.begin() as connection:
        set_password(connection, "anna", "another password")
    with pytest.raises(RefreshRefused):
        refresh_tokens(engine, issued.refresh_token)
    with pytest.raises(SignInFailed):
        sign_in(engine, "anna")
    sign_in(engine, "anna", "another password")


# --- tries -------------------------------------------------------------------------------------------------------


def test_tries_for_one_account_are_bounded_from_whatever_address(engine: Engine) -> None:
    add(engine, "anna")
    for number in range(ACCOUNT_TRIES):
        with pytest.raises(SignInFailed):
            sign_in(engine, "anna", "wrong password", f"10.0.0.{number}")
    with pytest.raises(SignInThrottled) as throttled:
        sign_in(engine, "anna", PASSWORD, "10.0.1.1")
    assert throttled.value.name == "anna"
    assert 0 < throttled.value.retry_after_s <= WINDOW.total_seconds()
    with engine.begin() as connection:
        earlier = sign_in_attempts.c.since_at - WINDOW - timedelta(seconds=1)
        connection.execute(update(sign_in_attempts).values(since_at=earlier))
    sign_in(engine, "anna")


def test_tries_from_one_address_are_bounded_whatever_the_name(engine: Engine) -> None:
    """An IPv6 site counts as one address."""
    add(engine, "anna")
    with pytest.raises(SignInFailed):
        sign_in(engine, "somebody", "wrong password", "2001:db8::1")
    with engine.begin() as connection:
        connection.execute(update(sign_in_attempts).values(count=ADDRESS_TRIES))
    with pytest.raises(SignInThrottled):
        sign_in(engine, "anna", PASSWORD, "2001:db8::ffff:2")
    sign_in(engine, "anna", PASSWORD, "2001:db8:0:1::1")


def test_ipv4_callers_that_come_by_ipv6_are_no_one_site(engine: Engine) -> None:
    add(engine, "anna")
    for address in ("::ffff:192.0.2.1", "192.0.2.1"):
        with pytest.raises(SignInFailed):
            sign_in(engine, "somebody", "wrong password", address)
    with engine.begin() as connection:
        connection.execute(update(sign_in_attempts).values(count=ADDRESS_TRIES))
    with pytest.raises(SignInThrottled):
        sign_in(engine, "anna", PASSWORD, "192.0.2.1")
    sign_in(engine, "anna", PASSWORD, "::ffff:198.51.100.1")


def test_success_gives_the_account_its_tries_back(engine: Engine) -> None:
    add(engine, "anna")
    for _ in range(2):
        for _ in range(ACCOUNT_TRIES - 1):
            with pytest.raises(SignInFailed):
                sign_in(engine, "anna", "wrong password")
        sign_in(engine, "anna")


# --- the first administrator -------------------------------------------------------------------------------------


def test_link_makes_one_administrator_and_is_stored_as_a_hash(engine: Engine) -> None:
    with engine.begin() as connection:
        links = [create_link(connection, "http://localhost:8000") for _ in range(2)]
    codes = [str(link).partition("?code=")[2] for link in links]
    assert all(len(code) > 40 for code in codes)
    with engine.connect() as connection:
        stored = [bytes(row.hash) for row in connection.execute(select(one_time_links))]
    assert not any(code.encode() in kept for kept in stored for code in codes)
    with engine.begin() as connection, pytest.raises(LinkRefused):
        check_code(connection, codes[0] + "x")
    with engine.begin() as connection:
        make_first_administrator(connection, codes[0], "anna", PASSWORD)
    for code in codes:
        with engine.begin() as connection, pytest.raises(LinkRefused):
            make_first_administrator(connection, code, "mallory", PASSWORD)
    with engine.begin() as connection:
        assert create_link(connection, "http://localhost:8000") is None
        assert [user.name for user in load_users(connection)] == ["anna"]


def test_old_link_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        code = str(create_link(connection, "")).partition("?code=")[2]
        connection.execute(update(one_time_links).values(expires_at=one_time_links.c.expires_at - timedelta(days=2)))
    with engine.begin() as connection, pytest.raises(LinkRefused):
        make_first_administrator(connection, code, "anna", PASSWORD)
