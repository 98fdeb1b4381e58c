"""How often somebody tries to sign in: bounded for each account and for each address, whichever process is asked.

A try is counted before the password is looked at, so that many at once are many; one that succeeds is taken back.
"""

import ipaddress
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, case, delete, update
from sqlalchemy.dialects.postgresql import insert

from core.account_changes import hash_secret
from core.account_errors import SignInThrottled
from core.tables.accounts import sign_in_attempts

ACCOUNT_TRIES = 10
ADDRESS_TRIES = 50
WINDOW = timedelta(minutes=15)
_IPV6_SITE_BITS = 64


def count_attempt(connection: Connection, name: str, address: str) -> None:
    """Count one try; raises SignInThrottled where there were too many, which keeps the count as it was."""
    now = datetime.now(UTC)
    connection.execute(delete(sign_in_attempts).where(sign_in_attempts.c.since_at <= now - WINDOW))
    for key, most in ((_build_address_key(address), ADDRESS_TRIES), (_build_account_key(name), ACCOUNT_TRIES)):
        is_over = sign_in_attempts.c.since_at <= now - WINDOW
        row = connection.execute(
            insert(sign_in_attempts)
            .values(key=key, count=1, since_at=now)
            .on_conflict_do_update(
                index_elements=["key"],
                set_={
                    "count": case((is_over, 1), else_=sign_in_attempts.c.count + 1),
                    "since_at": case((is_over, now), else_=sign_in_attempts.c.since_at),
                },
            )
            .returning(sign_in_attempts.c.count.label("tries"), sign_in_attempts.c.since_at)
        ).one()
        if row.tries > most:
            raise SignInThrottled(name, max(1, round((row.since_at + WINDOW - now).total_seconds())))


def forget_attempts(connection: Connection, name: str, address: str) -> None:
    """A try that succeeded: the account begins anew, the address loses this one."""
    connection.execute(delete(sign_in_attempts).where(sign_in_attempts.c.key == _build_account_key(name)))
    connection.execute(
        update(sign_in_attempts)
        .where(sign_in_attempts.c.key == _build_address_key(address), sign_in_attempts.c.count > 0)
        .values(count=sign_in_attempts.c.count - 1)
    )


def _build_account_key(name: str) -> bytes:
    return hash_secret(f"account:{name}")


def _build_address_key(address: str) -> bytes:
    """One key for an IPv6 site: whoever has one address there has 2^64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return hash_secret(f"address:{address}")
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return hash_secret(f"address:{parsed.ipv4_mapped}")
        return hash_secret(f"address:{ipaddress.ip_network((parsed, _IPV6_SITE_BITS), strict=False)}")
    return hash_secret(f"address:{parsed}")
