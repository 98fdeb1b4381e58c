"""`millrace users` and `millrace tokens`: who may ask the platform, managed with access to its database."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated

import typer

from cli.actor import find_actor
from cli.auditing import audited
from cli.command_settings import load_command_settings
from cli.output import JsonOption, console, print_json, print_table
from core.account_errors import PasswordRejected
from core.api_tokens import create_token, load_tokens, revoke_token
from core.connections import Connections, open_connections
from core.local_platform import open_database
from core.principals import ROLE_WORDS, Action, Role, Scopes

_MOST_READ = 10_000
_ROLES = ", ".join(ROLE_WORDS)

RoleOption = Annotated[str, typer.Option(help=f"One of {_ROLES}.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the user.", show_default=False)]


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    users = typer.Typer(no_args_is_help=True, help="Who may sign in, and as what.")
    users.command("add")(add)
    users.command("list")(list_users)
    users.command("disable")(disable)
    users.command("enable")(enable)
    users.command("set-password")(change_password)
    users.command("set-role")(change_role)
    app.add_typer(users, name="users")
    tokens = typer.Typer(no_args_is_help=True, help="Tokens of services and scripts.")
    tokens.command("create")(create)
    tokens.command("list")(list_tokens)
    tokens.command("revoke")(revoke)
    app.add_typer(tokens, name="tokens")


# Argon2 is needed here alone; other commands do without its package.


def add(name: NameArgument, *, role: RoleOption = Role.VIEWER.word) -> None:
    """Make a user. The password is asked for, or is the first line of standard input."""
    from core.users import add_user, parse_role

    wanted = parse_role(role)
    password = _read_password()
    with _database_session() as connections, connections.engine.begin() as connection:
        add_user(connection, name, password, wanted, created_by=find_actor())
    console.print(f"{name} may sign in as {wanted.word}.", markup=False)


def list_users(*, as_json: JsonOption = False) -> None:
    """Show the users."""
    from core.users import load_users

    with _database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        found = load_users(connection)
    if as_json:
        print_json(found)
        return
    rows = [
        [u.name, u.role, "no" if u.is_disabled else "yes", u.created_at, u.created_by, u.signed_in_at] for u in found
    ]
    print_table("Users", ["name", "role", "may sign in", "made", "by", "signed in last"], rows)


def disable(name: NameArgument) -> None:
    """Take a user's access away at once; the records keep the name."""
    _set_disabled(name, is_disabled=True)
    console.print(f"{name} may not sign in any more.", markup=False)


def enable(name: NameArgument) -> None:
    """Give a disabled user the access back."""
    _set_disabled(name, is_disabled=False)
    console.print(f"{name} may sign in again.", markup=False)


def change_password(name: NameArgument) -> None:
    """Set another password, asked for or from standard input; sessions of the user end."""
    from core.users import set_password

    password = _read_password()
    with _database_session() as connections, connections.engine.begin() as connection:
        set_password(connection, name, password)
    console.print(f"{name} has another password.", markup=False)


def change_role(name: NameArgument, role: Annotated[str, typer.Argument(help=f"One of {_ROLES}.")]) -> None:
    """Give a user another role, which holds at once."""
    from core.users import parse_role, set_role

    wanted = parse_role(role)
    with _database_session() as connections, connections.engine.begin() as connection:
        set_role(connection, name, wanted)
    console.print(f"{name} is {wanted.word} now.", markup=False)


def create(
    name: Annotated[str, typer.Argument(help="Name of the token: what it is for.", show_default=False)],
    *,
    role: RoleOption = Role.VIEWER.word,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Restrict it to actions ({', '.join(Action)}) or to models (model:NAME); may be given several times."
        ),
    ] = None,
    days: Annotated[float, typer.Option(help="How long it is valid; 0 for ever.")] = 90.0,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it, this once."""
    from core.users import parse_role

    wanted, scopes = parse_role(role), Scopes.parse(scope or [])
    with _database_session() as connections, connections.engine.begin() as connection:
        secret = create_token(
            connection, name, wanted, created_by=find_actor(), scopes=scopes, lifetime_days=days or None
        )
    # Alone on its line, so that TOKEN="$(millrace tokens create ...)" has it.
    if as_json:
        print_json({"name": name, "token": secret})
    else:
        typer.echo(secret)


def list_tokens(
    *,
    is_whole: Annotated[bool, typer.Option("--all", help="Those revoked or expired too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the tokens, without their secrets."""
    with _database_session(is_reading=True) as connections, connections.engine.connect() as connection:
        found = load_tokens(connection, is_whole=is_whole)
    if as_json:
        print_json(found)
        return
    rows = [
        [t.name, t.role, " ".join(t.scopes), t.created_by, t.expires_at, t.last_used_at, t.revoked_at] for t in found
    ]
    print_table("Tokens", ["name", "role", "scopes", "by", "valid until", "used last", "revoked"], rows)


def revoke(name: Annotated[str, typer.Argument(help="Name of the token.", show_default=False)]) -> None:
    """End a token: within two seconds it is refused everywhere."""
    with _database_session() as connections, connections.engine.begin() as connection:
        revoke_token(connection, name)
    console.print(f"Token {name} is revoked.", markup=False)


@contextmanager
def _database_session(*, is_reading: bool = False) -> Iterator[Connections]:
    """The database alone: accounts are managed where nothing of trainings is installed, too."""
    settings = load_command_settings()
    with (
        open_database(settings) as url,
        open_connections(settings, url) as connections,
        nullcontext() if is_reading else audited(connections.engine),
    ):
        yield connections


def _set_disabled(name: str, *, is_disabled: bool) -> None:
    from core.users import set_disabled

    with _database_session() as connections, connections.engine.begin() as connection:
        set_disabled(connection, name, is_disabled=is_disabled)


def _read_password() -> str:
    """From the terminal, twice and unseen, else the first line of standard input: never from the command line."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    line = sys.stdin.readline(_MOST_READ).rstrip("\r\n")
    if not line:
        raise PasswordRejected("there is none: give it as the first line of standard input")
    return line
