"""Users: people who sign in with a name and a password."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from core.account_changes import check_account_name, lock_accounts, record_change
from core.account_errors import LastAdministrator, RoleRejected, UserExists, UserNotFound
from core.passwords import check_password, hash_password
from core.principals import ROLE_WORDS, Role
from core.sign_in_sessions import end_sessions
from core.tables.accounts import users


@dataclass(frozen=True)
class User:
    """A user, without the password."""

    name: str
    role: str
    is_disabled: bool
    created_at: datetime
    created_by: str
    signed_in_at: datetime | None


_COLUMNS = (
    users.c.name,
    users.c.role,
    users.c.is_disabled,
    users.c.created_at,
    users.c.created_by,
    users.c.signed_in_at,
)


def parse_role(word: str) -> Role:
    """The role of that name; raises RoleRejected."""
    role = Role.find(word)
    if role is None:
        raise RoleRejected(word, ROLE_WORDS)
    return role


def add_user(connection: Connection, name: str, password: str, role: Role, *, created_by: str) -> None:
    """Make a user; raises AccountNameRejected, PasswordRejected, UserExists."""
    check_account_name("user", name)
    stored = hash_password(check_password(password, name))
    lock_accounts(connection)
    if _find(connection, name) is not None:
        raise UserExists(name)
    connection.execute(
        insert(users).values(name=name, password_hash=stored, role=role.word, is_disabled=False, created_by=created_by)
    )
    record_change(connection)


def load_users(connection: Connection) -> list[User]:
    """Every user, by name."""
    rows = connection.execute(select(*_COLUMNS).order_by(users.c.name))
    return [User(*row) for row in rows]


def get_user(connection: Connection, name: str) -> User:
    """The user; raises UserNotFound."""
    found = _find(connection, name)
    if found is None:
        raise UserNotFound(name)
    return found


def set_disabled(connection: Connection, name: str, *, is_disabled: bool) -> None:
    """Take a user's access away, or give it back; what was signed in ends. Raises UserNotFound, LastAdministrator."""
    lock_accounts(connection)
    user = get_user(connection, name)
    if is_disabled:
        _keep_one_administrator(connection, user)
        end_sessions(connection, name)
    connection.execute(update(users).where(users.c.name == name).values(is_disabled=is_disabled))
    record_change(connection)


def set_role(connection: Connection, name: str, role: Role) -> None:
    """Give a user another role, which holds at once. Raises UserNotFound, LastAdministrator."""
    lock_accounts(connection)
    user = get_user(connection, name)
    if role is not Role.ADMINISTRATOR:
        _keep_one_administrator(connection, user)
    connection.execute(update(users).where(users.c.name == name).values(role=role.word))
    record_change(connection)


def set_password(connection: Connection, name: str, password: str) -> None:
    """Give a user another password; what was signed in with the old one ends. Raises UserNotFound, PasswordRejected."""
    get_user(connection, name)
    stored = hash_password(check_password(password, name))
    lock_accounts(connection)
    connection.execute(update(users).where(users.c.name == name).values(password_hash=stored))
    end_sessions(connection, name)
    record_change(connection)


def has_administrator(connection: Connection) -> bool:
    """Whether anyone can sign in as an administrator."""
    return _count_administrators(connection) > 0


def _find(connection: Connection, name: str) -> User | None:
    row = connection.execute(select(*_COLUMNS).where(users.c.name == name)).one_or_none()
    return None if row is None else User(*row)


def _count_administrators(connection: Connection) -> int:
    is_administrator = (users.c.role == Role.ADMINISTRATOR.word, users.c.is_disabled.is_(False))
    return connection.scalar(select(func.count()).select_from(users).where(*is_administrator)) or 0


def _keep_one_administrator(connection: Connection, user: User) -> None:
    is_one = user.role == Role.ADMINISTRATOR.word and not user.is_disabled
    if is_one and _count_administrators(connection) == 1:
        raise LastAdministrator(user.name)
