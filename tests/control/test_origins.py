"""Requests that a page of another site makes a browser send."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.control.running import Controlled, controlling

_TRAINING = "/models/prices/trainings"


def _get_netloc(running: Controlled) -> str:
    return urlsplit(running.address).netloc


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://[", ""])
def test_page_of_another_site_changes_nothing(steady: Controlled, origin: str) -> None:
    before = steady.client.get("/trainings").json()
    shapes = {_TRAINING: "application/problem+json", "/mlflow/api/2.0/mlflow/experiments/create": "application/json"}
    for path, media_type in shapes.items():
        response = steady.client.post(path, headers={"Origin": origin})
        assert response.status_code == 403, response.text
        assert response.headers["content-type"] == media_type
    assert steady.client.get("/trainings").json() == before


def test_page_under_a_name_that_was_bound_to_this_machine_reads_nothing(steady: Controlled) -> None:
    for headers in (
        {"Host": "evil.example:8001"},
        {"X-Forwarded-Host": "evil.example"},
        {"Host": "[::1"},
        {"Host": "10.0.0.7"},
        {"Host": "localhost.evil.example"},
    ):
        for path in ("/trainings", "/mlflow/", "/mlflow/api/3.0/mlflow/server-info"):
            response = steady.client.get(path, headers=headers)
            assert response.status_code == 403, (headers, path, response.text)


def test_own_page_may_change_what_it_shows(controlled: Controlled) -> None:
    own = _get_netloc(controlled)
    assert controlled.client.post(_TRAINING, headers={"Origin": f"http://{own}"}).status_code == 202
    forwarded = {"X-Forwarded-Host": "localhost:8000", "Origin": "http://localhost:8000"}
    assert controlled.client.post(_TRAINING, headers=forwarded).status_code == 200


def test_private_network_may_use_names_of_its_own(tmp_path: Path, platform_url: str, nowhere: str) -> None:
    with controlling(tmp_path, platform_url, nowhere, private_network=True) as running:
        assert running.client.get("/trainings", headers={"Host": "control:8001"}).status_code == 200
        foreign = running.client.post(_TRAINING, headers={"Host": "control:8001", "Origin": "https://evil.example"})
        assert foreign.status_code == 403
