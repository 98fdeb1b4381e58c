"""Tokens on the way to a prediction: known at once, refused soon, and without the database too."""

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from sqlalchemy import Engine

from core.account_changes import hash_secret
from core.api_tokens import create_token, load_tokens, revoke_token
from core.embedded_database import EmbeddedDatabase
from core.principals import Role, Scopes
from core.signing_in import issue_tokens
from core.users import add_user, set_disabled, set_role
from tests.accounts import TOKEN, build_headers
from tests.serving.folder_registry import FolderRegistry
from tests.serving.running import Served, serving, wait_until
from tests.web.providers import AUDIENCE, running_provider

BODY = {"values": [10.0, 20.0, 30.0, 40.0]}
# A revoked token is refused within two seconds; a machine at its limit is given more.
SOON_S = 10.0


def predict(served: Served, token: str, model: str = "prices") -> int:
    answer = httpx.post(f"{served.address}/models/{model}/predict", json=BODY, headers=build_headers(token), timeout=60)
    return answer.status_code


def create(engine: Engine, name: str, *scopes: str, role: Role = Role.VIEWER) -> str:
    with engine.begin() as connection:
        return create_token(connection, name, role, created_by="test", scopes=Scopes.parse(scopes))


def test_new_token_works_at_once_and_a_revoked_one_soon_not(served: Served, own_engine: Engine) -> None:
    for name in ("first", "second"):
        token = create(own_engine, name)
        assert predict(served, token) == 200
        with own_engine.begin() as connection:
            revoke_token(connection, name)
        began_s = time.monotonic()
        wait_until(lambda token=token: predict(served, token) == 401, SOON_S)  # type: ignore[misc]
        assert time.monotonic() - began_s < SOON_S
    assert predict(served, "mlr_never-made") == 401


def test_session_and_role_end_soon_too(served: Served, own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        add_user(connection, "anna", "correct horse battery", Role.VIEWER, created_by="test")
    token = issue_tokens(own_engine, "anna").access_token
    assert predict(served, token) == 200
    with own_engine.begin() as connection:
        set_role(connection, "anna", Role.OPERATOR)
    assert predict(served, token) == 200
    with own_engine.begin() as connection:
        set_disabled(connection, "anna", is_disabled=True)
    wait_until(lambda: predict(served, token) == 401, SOON_S)


def test_scopes_hold_on_every_way_to_a_model(served: Served, own_engine: Engine) -> None:
    token = create(own_engine, "sensor", "predict", "model:prices")
    with httpx.Client(base_url=served.address, headers=build_headers(token), timeout=60) as sensor:
        for path in ("/predict", "/models/prices/predict"):
            assert sensor.post(path, json=BODY).status_code == 200, path
        scored = sensor.post("/models/prices/invocations", json={"instances": [[[value] for value in BODY["values"]]]})
        assert scored.status_code == 200
        for method, path in (
            ("GET", "/models"),
            ("GET", "/models/prices"),
            ("GET", "/metrics"),
            ("GET", "/v2/models/prices"),
            ("POST", "/models/books/predict"),
            ("POST", "/v2/models/books/infer"),
            ("POST", "/invocations"),
            ("GET", "/mlflow/"),
        ):
            assert sensor.request(method, path, json=BODY if method == "POST" else None).status_code == 403, path


def test_last_use_is_written(served: Served, own_engine: Engine) -> None:
    token = create(own_engine, "ci")
    assert predict(served, token) == 200

    def is_written() -> bool:
        with own_engine.connect() as connection:
            return any(one.last_used_at for one in load_tokens(connection) if one.name == "ci")

    wait_until(is_written, SOON_S)


def test_database_that_goes_away_takes_no_token_along(
    served: Served, own_engine: Engine, database: EmbeddedDatabase
) -> None:
    used, unused = create(own_engine, "used"), create(own_engine, "unused")
    assert predict(served, used) == 200
    wait_until(lambda: hash_secret(unused).hex() in served.settings.known_tokens_file.read_text(), SOON_S)
    database.stop()
    try:
        for token in (used, unused, TOKEN):
            assert predict(served, token) == 200
        assert predict(served, "mlr_never-made") == 401
    finally:
        database.start()


def test_serving_starts_with_the_database_away_and_the_hashes_it_kept(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry, database: EmbeddedDatabase
) -> None:
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    with serving(tmp_path, own_database_url, folder_registry) as served:
        served.wait_for_version("prices", 1)
        path = served.settings.known_tokens_file
        kept = orjson.loads(path.read_bytes())
        assert [entry["hash"] for entry in kept] == [hash_secret(TOKEN).hex()]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert TOKEN not in path.read_text()
    database.stop()
    try:
        with serving(tmp_path, own_database_url, folder_registry, models=()) as again:
            wait_until(lambda: predict(again, TOKEN) == 200)
            assert predict(again, "mlr_never-made") == 401
        path.unlink()
        with serving(tmp_path, own_database_url, folder_registry, models=()) as unknowing:
            # Neither yes nor no: nobody can be recognised.
            assert predict(unknowing, TOKEN) == 503
    finally:
        database.start()


@pytest.fixture
def provided(tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry) -> Iterator[tuple[Served, str]]:
    """Serving that trusts a provider, and a token of that."""
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    with (
        running_provider() as provider,
        serving(
            tmp_path, own_database_url, folder_registry, oidc_issuer=provider.issuer, oidc_audience=AUDIENCE
        ) as served,
    ):
        served.wait_for_version("prices", 1)
        yield served, provider.issue(roles=["viewer"])


def test_token_of_a_provider_predicts_and_no_more(provided: tuple[Served, str]) -> None:
    served, token = provided
    assert predict(served, token) == 200
    assert predict(served, token[:-6] + "AAAAAA") == 401
