import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from core.errors import ModelVersionNotFound, NameRejected, TrackingUnavailable
from core.mlflow_client import build_client
from core.registry import Registry, Standing
from core.tracking import Tracking
from tests.conftest import find_free_port

AddVersion = Callable[[], int]


def test_versions_are_listed_newest_first_with_what_they_were_registered_with(
    registry: Registry, tracking: Tracking, model: str
) -> None:
    run_id = tracking.start_run("registry", None, {})
    for number in range(1, 12):
        registry.register(model, run_id, f"runs:/{run_id}/version", {"number": str(number)})
    versions = registry.load_versions(model)
    assert [one.version for one in versions] == list(range(11, 0, -1))
    newest = versions[0]
    assert (newest.model, newest.stage, newest.run_id, newest.tags) == (model, "None", run_id, {"number": "11"})
    assert abs(newest.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert registry.get_version(model, 11) == newest


def test_model_that_was_never_registered_has_no_versions(registry: Registry, model: str) -> None:
    assert registry.load_versions(model) == []
    assert registry.find_production(model) is None
    assert registry.load_standing(model) == Standing(None, None)
    assert model not in registry.load_production_versions()
    with pytest.raises(ModelVersionNotFound, match="existing are none"):
        registry.get_version(model, 1)


def test_unknown_version_is_refused_naming_those_that_exist(
    registry: Registry, model: str, add_version: AddVersion, tmp_path: Path
) -> None:
    add_version()
    add_version()
    with pytest.raises(ModelVersionNotFound, match="existing are 2, 1"):
        registry.get_version(model, 3)
    with pytest.raises(ModelVersionNotFound):
        registry.download(model, 3, tmp_path)
    with pytest.raises(ModelVersionNotFound):
        registry.move_to_production(model, 3)


@pytest.mark.parametrize("name", ["", "Prices", "a/b", "../prices", "x' or name LIKE '%"])
def test_names_that_are_not_plain_never_reach_the_server(name: str, tmp_path: Path) -> None:
    registry = Registry(f"http://127.0.0.1:{find_free_port()}")
    with pytest.raises(NameRejected):
        registry.load_versions(name)
    with pytest.raises(NameRejected):
        registry.find_production(name)
    with pytest.raises(NameRejected):
        registry.register(name, "run", "runs:/run/version", {})
    with pytest.raises(NameRejected):
        registry.download(name, 1, tmp_path)


def test_production_is_the_highest_version_in_that_stage(
    registry: Registry, tracking_server: str, model: str, add_version: AddVersion
) -> None:
    for _ in range(11):
        add_version()
    client = MlflowClient(tracking_server, tracking_server)
    for version in ("10", "9", "2"):
        with pytest.warns(FutureWarning, match="stages"):
            client.transition_model_version_stage(model, version, "Production")
    found = registry.find_production(model)
    assert found is not None
    assert (found.version, found.stage) == (10, "Production")
    assert registry.load_production_versions()[model] == 10


def test_move_to_production_archives_the_version_that_was_there(
    registry: Registry, model: str, add_version: AddVersion
) -> None:
    add_version()
    add_version()
    registry.move_to_production(model, 1)
    registry.move_to_production(model, 2)
    assert [(one.version, one.stage) for one in registry.load_versions(model)] == [(2, "Production"), (1, "Archived")]


def test_alias_is_set_moved_and_taken_away(registry: Registry, model: str, add_version: AddVersion) -> None:
    add_version()
    add_version()
    for version in (1, 2, None):
        registry.set_alias(model, version)
        assert registry.load_standing(model) == Standing(None, version)


def test_download_writes_the_files_of_the_version_into_the_folder_and_nothing_else(
    registry: Registry, model: str, add_version: AddVersion, tmp_path: Path
) -> None:
    add_version()
    folder = tmp_path / "version"
    folder.mkdir()
    registry.download(model, 1, folder)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "version/contract.json",
        "version/data/weights.bin",
    ]
    assert (folder / "data" / "weights.bin").read_bytes() == bytes(range(256)) * 40


def test_version_of_a_logged_model_is_downloaded_and_linked_to_it(
    registry: Registry, tracking: Tracking, tracking_server: str, model: str, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_server, tracking_server)
    run_id = tracking.start_run("registry", None, {})
    logged = client.create_logged_model(tracking.ensure_experiment("registry"), name="prices", source_run_id=run_id)
    files = tmp_path / "files"
    files.mkdir()
    (files / "contract.json").write_text("{}")
    client.log_model_artifacts(logged.model_id, str(files))
    client.finalize_logged_model(logged.model_id, "READY")
    version = registry.register(model, run_id, f"models:/{logged.model_id}", {}).version
    folder = tmp_path / "version"
    folder.mkdir()
    registry.download(model, version, folder)
    assert [path.name for path in folder.iterdir()] == ["contract.json"]
    linked = client.get_logged_model(logged.model_id).tags["mlflow.modelVersions"]
    assert json.loads(linked) == [{"name": model, "version": version}]


def test_server_that_is_away_is_named_within_seconds() -> None:
    port = find_free_port()
    registry = Registry(f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(TrackingUnavailable, match=rf"127\.0\.0\.1:{port} does not answer: Connection refused"):
        registry.load_production_versions()
    assert time.monotonic() - started < 10


def test_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        started = time.monotonic()
        with pytest.raises(TrackingUnavailable, match="no answer within 1 s"):
            registry.find_production("prices")
        assert time.monotonic() - started < 15


def test_waiting_is_bounded_unless_the_operator_chose_to_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    build_client("http://127.0.0.1:1", 10)
    assert [os.environ[name] for name in names] == ["10", "2"]
    Tracking("http://127.0.0.1:1")
    build_client("http://127.0.0.1:1", 10)
    assert os.environ[names[0]] == "300"
    monkeypatch.setenv(names[0], "600")
    monkeypatch.setenv(names[1], "0")
    Tracking("http://127.0.0.1:1")
    assert [os.environ[name] for name in names] == ["600", "0"]


def test_one_try_is_made_where_the_operator_wants_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TrackingUnavailable, match="no answer within 1 s"):
            Registry(address).find_production("prices")
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_server_that_is_no_mlflow_is_named_as_one(tmp_path: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            with pytest.raises(TrackingUnavailable, match="something else than MLflow"):
                Registry(f"http://127.0.0.1:{other.server_port}").load_standings()
        finally:
            other.shutdown()


def test_registry_is_reached_with_the_token_of_the_environment(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str | None] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the server's own name for it
            heard.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    with ThreadingHTTPServer(("127.0.0.1", 0), Listening) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            assert Registry(f"http://127.0.0.1:{other.server_port}").load_standings() == {}
        finally:
            other.shutdown()
    assert heard == ["Bearer t0ken"]


_LIGHT = """
import sys
from core.registry import Registry
uri, model = sys.argv[1:]
registry = Registry(uri)
registry.move_to_production(model, 1)
registry.set_alias(model, 1)
assert registry.load_standing(model).production == 1
print("mlflow" in sys.modules)
"""


def test_stages_are_moved_without_loading_mlflow_whose_import_takes_seconds(
    tracking_server: str, model: str, add_version: AddVersion
) -> None:
    add_version()
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT, tracking_server, model], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"


def test_registry_leaves_mlflow_pointing_where_it_pointed(registry: Registry, model: str) -> None:
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    registry.load_versions(model)
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == before
