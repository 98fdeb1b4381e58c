"""Passwords, hashed with Argon2id (RFC 9106's second recommended choice, argon2-cffi's defaults)."""

import secrets
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from core.account_errors import PasswordRejected
from core.settings import MINIMUM_PASSWORD_CHARS

MAXIMUM_PASSWORD_CHARS = 256
# Each takes 64 MiB for some 50 ms; many tries at once must not take the machine's memory.
_at_once = threading.BoundedSemaphore(4)


def check_password(password: str, name: str) -> str:
    """The password, if it may be one; raises PasswordRejected. Source: NIST SP 800-63B, section 5.1.1.2."""
    if len(password) < MINIMUM_PASSWORD_CHARS:
        raise PasswordRejected(f"it has fewer than {MINIMUM_PASSWORD_CHARS} characters")
    if len(password) > MAXIMUM_PASSWORD_CHARS:
        raise PasswordRejected(f"it has more than {MAXIMUM_PASSWORD_CHARS} characters")
    if password.casefold() == name.casefold() or len(set(password)) < 4:
        raise PasswordRejected("it is the name, or hardly more than one character repeated")
    return password


def hash_password(password: str) -> str:
    """What is stored of the password."""
    with _at_once:
        return _get_hasher().hash(password)


def is_password(stored: str | None, password: str) -> bool:
    """Whether the password is the stored one. Takes as long where there is none (None), and answers no."""
    with _at_once:
        try:
            _get_hasher().verify(stored or _get_nobodys_hash(), password[: MAXIMUM_PASSWORD_CHARS + 1])
        except (VerificationError, InvalidHashError):
            return False
    return stored is not None


def needs_rehash(stored: str) -> bool:
    """Whether it was hashed with weaker parameters than those of today."""
    return _get_hasher().check_needs_rehash(stored)


@cache
def _get_hasher() -> PasswordHasher:
    return PasswordHasher()


@cache
def _get_nobodys_hash() -> str:
    return _get_hasher().hash(secrets.token_hex())
