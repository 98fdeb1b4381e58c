"""MLflow through the door: its pages, its api and its own client."""

import re
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from tests.control.running import Controlled


def test_pages_load_through_the_door(tracked: Controlled) -> None:
    slash = tracked.client.get("/mlflow", follow_redirects=False)
    assert (slash.status_code, slash.headers["location"]) == (307, "/mlflow/")
    page = tracked.client.get("/mlflow/")
    assert page.status_code == 200
    assert "<title>MLflow</title>" in page.text
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) >= 3
    for name in named:
        assert not name.startswith("/"), "pages under a prefix need relative addresses"
        assert tracked.client.get(httpx.URL(str(page.url)).join(name)).status_code == 200


def test_client_logs_and_reads_through_the_door(tracked: Controlled, tmp_path: Path) -> None:
    door = MlflowClient(tracking_uri=f"{tracked.address}/mlflow", registry_uri=f"{tracked.address}/mlflow")
    run_id = tracked.connections.tracking.start_run("prices", None, {})
    (tmp_path / "note.txt").write_bytes(b"x" * 3_000_000)
    door.log_metric(run_id, "mae", 1.5)
    door.log_artifact(run_id, str(tmp_path / "note.txt"), "notes")
    assert door.get_run(run_id).data.metrics == {"mae": 1.5}
    assert tracked.connections.tracking.find_artifact(run_id, "notes/note.txt", 10_000_000) == b"x" * 3_000_000
    fetched = Path(door.download_artifacts(run_id, "notes/note.txt", str(tmp_path / "..")))
    assert fetched.read_bytes() == b"x" * 3_000_000


@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_server_info_offers_no_transfer_past_the_door(tracked: Controlled, api: str) -> None:
    address = tracked.connections.settings.tracking_address
    direct = httpx.get(f"{address}/{api}/3.0/mlflow/server-info").json()
    through = tracked.client.get(f"/mlflow/{api}/3.0/mlflow/server-info").json()
    assert direct["presigned_upload_run_id_supported"] is True
    assert through.keys() == direct.keys()
    changed = {name for name in direct if direct[name] != through[name]}
    assert "presigned_upload_run_id_supported" in changed
    assert not any(through[name] for name in changed)
    assert through["store_type"] == "SqlStore"


def test_mlflow_answers_for_what_is_not_there(tracked: Controlled) -> None:
    response = tracked.client.get("/mlflow/api/2.0/mlflow/runs/get", params={"run_id": "0" * 32})
    assert response.status_code == 404
    assert response.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_mlflow_sees_who_calls_from_beyond_this_machine(tracked: Controlled) -> None:
    # MLflow's assistant runs commands on its machine and answers to callers on it alone.
    path = "/mlflow/ajax-api/3.0/mlflow/assistant/providers/nothing/health"
    assert tracked.client.get(path).status_code == 404
    assert tracked.client.get(path, headers={"X-Forwarded-For": "10.0.0.9"}).status_code == 403
