"""What the control plane answers while the database or the tracking server is away."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.database import migrate_database
from core.embedded_database import EmbeddedDatabase
from tests.control.running import Controlled, controlling, declare_prices


@pytest.fixture
def own_database(database_folder: Path) -> Iterator[EmbeddedDatabase]:
    """A PostgreSQL that the test may stop and start again."""
    server = EmbeddedDatabase(database_folder)
    server.start()
    yield server
    server.stop()


def test_database_that_goes_away_is_a_503_and_comes_back_without_a_restart(
    own_database: EmbeddedDatabase, database_folder: Path, nowhere: str
) -> None:
    url = own_database.url
    migrate_database(url)
    with controlling(database_folder, url, nowhere) as running:
        declare_prices(running.connections)
        assert running.client.get("/models/prices/findings").status_code == 200
        own_database.stop()
        for method, path in (
            ("GET", "/trainings"),
            ("GET", "/models/prices/findings"),
            ("POST", "/models/prices/trainings"),
            ("POST", "/models/prices/checks"),
            ("GET", "/models/prices/target"),
        ):
            response = running.client.request(method, path)
            assert response.status_code == 503, (path, response.text)
            assert response.json()["type"] == "/problems/database-unavailable"
            assert response.headers["retry-after"]
            # Neither the folder of the socket nor the password.
            assert str(database_folder) not in response.text
            assert url.partition("@")[0].rpartition(":")[2] not in response.text
        assert running.client.get("/health/live").status_code == 200
        own_database.start()
        assert running.client.get("/models/prices/findings").status_code == 200
        assert running.client.post("/models/prices/trainings").status_code == 202


def test_readiness_says_what_is_away(own_database: EmbeddedDatabase, database_folder: Path, nowhere: str) -> None:
    migrate_database(own_database.url)
    with controlling(database_folder, own_database.url, nowhere) as running:
        states = _load_states(running)
        assert states == {"database": "ok", "tracking": "failed"}
        own_database.stop()
        response = running.client.get("/health/ready")
        assert response.status_code == 503
        assert _load_states(running) == {"database": "failed", "tracking": "failed"}
        assert str(database_folder) not in response.text


def test_tracking_server_that_is_away_is_a_503_within_seconds(controlled: Controlled) -> None:
    begun_at = time.monotonic()
    for method, path, body in (
        ("GET", "/models/prices/versions", None),
        ("POST", "/models/prices/promote", {"version": 1}),
        ("POST", "/models/prices/rollback", None),
        ("PUT", "/models/prices/target", {"target": "1"}),
    ):
        response = controlled.client.request(method, path, json=body)
        assert response.status_code == 503, (path, response.text)
        assert response.headers["content-type"] == "application/problem+json"
    for path in ("/mlflow/api/3.0/mlflow/server-info", "/mlflow/"):
        response = controlled.client.get(path)
        assert (response.status_code, response.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert time.monotonic() - begun_at < 40
    # What needs no registry goes on.
    assert controlled.client.put("/models/prices/target", json={"target": "latest"}).status_code == 200
    assert controlled.client.post("/models/prices/trainings").status_code == 202


def test_control_plane_is_ready_when_both_answer(tracked: Controlled) -> None:
    response = tracked.client.get("/health/ready")
    assert response.status_code == 200
    assert _load_states(tracked) == {"database": "ok", "tracking": "ok"}


def _load_states(running: Controlled) -> dict[str, str]:
    return {check["name"]: check["state"] for check in running.client.get("/health/ready").json()["checks"]}
