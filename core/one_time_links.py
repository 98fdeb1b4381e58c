"""The first administrator: made through a link that works once, and only while there is none."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select

from core.account_changes import hash_secret, lock_accounts, make_secret
from core.account_errors import LinkRefused
from core.principals import Role
from core.tables.accounts import one_time_links
from core.users import add_user, has_administrator

PATH = "/first-administrator"
_LIFETIME = timedelta(days=1)


def create_link(connection: Connection, address: str) -> str | None:
    """A link below `address`; None where there is an administrator. Links made before it hold until one is used."""
    if has_administrator(connection):
        return None
    code = make_secret("")
    connection.execute(delete(one_time_links).where(one_time_links.c.expires_at <= func.now()))
    connection.execute(insert(one_time_links).values(hash=hash_secret(code), expires_at=datetime.now(UTC) + _LIFETIME))
    return f"{address}{PATH}?code={code}"


def check_code(connection: Connection, code: str) -> None:
    """Raise LinkRefused unless the code is one of a link that may be used now."""
    is_meant = (one_time_links.c.hash == hash_secret(code), one_time_links.c.expires_at > func.now())
    is_known = connection.execute(select(one_time_links.c.hash).where(*is_meant)).first() is not None
    if not is_known or has_administrator(connection):
        raise LinkRefused


def make_first_administrator(connection: Connection, code: str, name: str, password: str) -> None:
    """Make the administrator and void every link; raises LinkRefused, AccountNameRejected, PasswordRejected."""
    lock_accounts(connection)
    check_code(connection, code)
    add_user(connection, name, password, Role.ADMINISTRATOR, created_by="one-time link")
    connection.execute(delete(one_time_links))
