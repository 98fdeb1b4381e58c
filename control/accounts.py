"""Users and tokens over HTTP: for administrators, as `millrace users` and `millrace tokens` at a terminal."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field, SecretStr

from control.documents import Answer, Order, describe_problems
from control.requests import Actor, OpenConnections
from control.sessions import FollowedAccounts
from core.api_tokens import create_token, load_tokens, revoke_token
from core.principals import ROLE_WORDS, Role, Scopes
from core.users import add_user, get_user, load_users, parse_role, set_disabled, set_password, set_role
from web.auditing import note_subject
from web.principal import require

router = APIRouter(
    tags=["accounts"], dependencies=[Depends(require(Role.ADMINISTRATOR))], responses=describe_problems()
)

_ROLES = ", ".join(ROLE_WORDS)
Name = Annotated[str, Path(max_length=200, pattern=r"^[^\x00]*$", description="Name of the user or of the token")]


class UserDocument(Answer):
    """A user, without the password."""

    name: str
    role: str = Field(description=_ROLES)
    is_disabled: bool
    created_at: datetime
    created_by: str
    signed_in_at: datetime | None


class TokenSummary(Answer):
    """A token, without its secret."""

    name: str
    role: str = Field(description=_ROLES)
    scopes: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To a minute or so")


class NewToken(Answer):
    """A token with its secret, which is told this once."""

    name: str
    token: str


class UserOrder(Order):
    """A user to make."""

    name: str
    password: SecretStr
    role: str = Field(description=_ROLES)


class UserChange(Order):
    """What to change; what is left out stays."""

    password: SecretStr | None = None
    role: str | None = Field(None, description=_ROLES)
    is_disabled: bool | None = None


class TokenOrder(Order):
    """A token to make."""

    name: str
    role: str = Field(description=_ROLES)
    scopes: list[str] = Field([], description="Actions (read, predict, operate, administer) and models (model:NAME)")
    days: float | None = Field(90, description="How long it is valid; null for ever")


@router.get("/users", summary="Who may sign in")
def list_users(connections: OpenConnections) -> list[UserDocument]:
    """List the users by name."""
    with connections.engine.connect() as connection:
        return [UserDocument.model_validate(user) for user in load_users(connection)]


@router.post("/users", status_code=201, summary="Make a user", responses=describe_problems(409))
def make_user(
    request: Request, connections: OpenConnections, accounts: FollowedAccounts, actor: Actor, order: UserOrder
) -> UserDocument:
    """Make a user, who may sign in at once."""
    note_subject(request.scope, target=f"user {order.name} as {order.role}")
    role = parse_role(order.role)
    with connections.engine.begin() as connection:
        add_user(connection, order.name, order.password.get_secret_value(), role, created_by=actor)
        made = get_user(connection, order.name)
    accounts.look()
    return UserDocument.model_validate(made)


@router.patch("/users/{name}", summary="Change a user", responses=describe_problems(404, 409))
def change_user(
    request: Request, name: Name, connections: OpenConnections, accounts: FollowedAccounts, change: UserChange
) -> UserDocument:
    """Set another password or role, or take the access away and give it back. The last administrator stays one."""
    note_subject(request.scope, target=f"user {name}: {_describe_change(change)}")
    with connections.engine.begin() as connection:
        get_user(connection, name)
        if change.role is not None:
            set_role(connection, name, parse_role(change.role))
        if change.password is not None:
            set_password(connection, name, change.password.get_secret_value())
        if change.is_disabled is not None:
            set_disabled(connection, name, is_disabled=change.is_disabled)
        changed = get_user(connection, name)
    accounts.look()
    return UserDocument.model_validate(changed)


def _describe_change(change: UserChange) -> str:
    told = []
    if change.role is not None:
        told.append(f"role {change.role}")
    if change.password is not None:
        told.append("another password")
    if change.is_disabled is not None:
        told.append("disabled" if change.is_disabled else "enabled")
    return ", ".join(told) or "nothing"


@router.get("/tokens", summary="The valid tokens of services")
def list_tokens(connections: OpenConnections) -> list[TokenSummary]:
    """List the tokens by name."""
    with connections.engine.connect() as connection:
        return [TokenSummary.model_validate(token) for token in load_tokens(connection)]


@router.post("/tokens", status_code=201, summary="Make a token", responses=describe_problems(409))
def make_token(
    request: Request, connections: OpenConnections, accounts: FollowedAccounts, actor: Actor, order: TokenOrder
) -> NewToken:
    """Make a token for a service or a script. Its secret is in this answer and nowhere else."""
    note_subject(request.scope, target=f"token {order.name} as {order.role}")
    role, scopes = parse_role(order.role), Scopes.parse(order.scopes)
    with connections.engine.begin() as connection:
        secret = create_token(connection, order.name, role, created_by=actor, scopes=scopes, lifetime_days=order.days)
    accounts.look()
    return NewToken(name=order.name, token=secret)


@router.delete("/tokens/{name}", status_code=204, summary="Revoke a token", responses=describe_problems(404))
def end_token(name: Name, connections: OpenConnections, accounts: FollowedAccounts) -> None:
    """End the token of that name: within two seconds it is refused everywhere."""
    with connections.engine.begin() as connection:
        revoke_token(connection, name)
    accounts.look()
