"""Changes of accounts, which every web process learns of, and the rules for what accounts are called."""

import hashlib
import re
import secrets

from sqlalchemy import Connection, select, update

from core.account_errors import AccountNameRejected
from core.database import notify
from core.tables.accounts import account_state

ACCOUNTS_CHANNEL = "millrace_accounts"
"""Notified when an account, a token or a session was changed."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_SECRET_BYTES = 32


def check_account_name(what: str, name: str) -> str:
    """The name itself, if it may be one; raises AccountNameRejected."""
    if not _NAME.fullmatch(name):
        raise AccountNameRejected(what, name)
    return name


def lock_accounts(connection: Connection) -> None:
    """Let no other transaction change accounts until this one ends."""
    connection.execute(select(account_state.c.id).with_for_update())


def record_change(connection: Connection) -> None:
    """Have every web process read the accounts anew when the transaction commits."""
    connection.execute(update(account_state).values(change=account_state.c.change + 1))
    notify(connection, ACCOUNTS_CHANNEL, "")


def make_secret(prefix: str) -> str:
    """A new secret of 256 random bits; the prefix says what it is to a person, and to a scanner for lost secrets."""
    return prefix + secrets.token_urlsafe(_SECRET_BYTES)


def hash_secret(secret: str | bytes) -> bytes:
    """What is stored of a secret that was made here. It cannot be guessed, so that a fast hash does."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()
