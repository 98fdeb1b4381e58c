"""Tokens of every role, so that routes can be asked as each of them."""

from core.principals import Role
from tests.accounts import add_test_token, build_headers

NAMES = {Role.VIEWER: "token:vera", Role.OPERATOR: "token:otto", Role.ADMINISTRATOR: "token:ada"}
"""What records name their principals."""


def add_role_tokens(database_url: str) -> None:
    """Let a migrated database know a token of each role."""
    for role, name in NAMES.items():
        add_test_token(database_url, build_token(role), name.removeprefix("token:"), role)


def as_role(role: Role) -> dict[str, str]:
    """The headers that make a request this role's."""
    return build_headers(build_token(role))


def build_token(role: Role) -> str:
    """The token of the role."""
    return f"mlr_a-token-of-role-{role.word}"
