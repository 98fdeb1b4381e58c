"""The token that the tests' clients carry, as a service's: an administrator's, unless a test asks for another."""

import uuid

from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql import insert

from core.account_changes import hash_secret, record_change
from core.database import normalise_url
from core.principals import Role
from core.tables.accounts import api_tokens

TOKEN = "mlr_the-administrator-of-the-tests"
TOKEN_VARIABLE = "MILLRACE_TOKEN"
ACTOR = "token:tests"
"""What records name it."""
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
HEADER_LINE = f"Authorization: Bearer {TOKEN}\r\n"
"""The same, for tests that write requests themselves."""


def build_headers(token: str) -> dict[str, str]:
    """The headers of a request with that token."""
    return {"Authorization": f"Bearer {token}"}


def add_test_token(database_url: str, token: str = TOKEN, name: str = "tests", role: Role = Role.ADMINISTRATOR) -> None:
    """Let a migrated database know the token, if it does not."""
    engine = create_engine(normalise_url(database_url))
    values = {"id": uuid.uuid4(), "name": name, "hash": hash_secret(token), "role": role.word, "scopes": []}
    with engine.begin() as connection:
        known = insert(api_tokens).values(**values, created_by="tests").on_conflict_do_nothing()
        if connection.execute(known).rowcount:
            record_change(connection)
    engine.dispose()
