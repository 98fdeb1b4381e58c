"""Following the real registry: a real MLflow server, transitions of the platform's and by hand."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from core.contracts import write_contracts
from core.promotion import promote, rollback
from core.registry import Registry
from core.settings import load_settings
from core.tracking import Tracking
from serving.app import create_app
from serving.server import build_server
from tests.accounts import HEADERS, add_test_token
from tests.conftest import find_free_port
from tests.serving.onnx_models import Answers, build_contract, write_version
from tests.serving.running import wait_until

VALUES = {"values": [10.0, 20.0, 30.0, 40.0]}
# Two seconds are promised, and measured by benchmarks/swap.py; here other tests may load the machine.
FOLLOWED_WITHIN_S = 10.0


@dataclass(frozen=True)
class Platform:
    """The shared database and registry, and a serving process that follows them."""

    model: str
    engine: Engine
    registry: Registry
    tracking: Tracking
    client: httpx.Client
    folder: Path

    def register(self, answers: Answers) -> int:
        source = self.folder / f"source-{answers}"
        write_version(source, build_contract(self.model), answers)
        run_id = self.tracking.start_run(self.model, None, {})
        for path in sorted(source.rglob("*")):
            if path.is_file():
                self.tracking.log_artifact(run_id, path, str(Path("version") / path.parent.relative_to(source)))
        self.tracking.finish_run(run_id, "FINISHED")
        return self.registry.register(self.model, run_id, f"runs:/{run_id}/version", {}).version

    def predict(self) -> httpx.Response:
        return self.client.post(f"/models/{self.model}/predict", json=VALUES)


@pytest.fixture
def platform(
    tmp_path: Path,
    database_url: str,
    shared_engine: Engine,
    registry: Registry,
    tracking: Tracking,
    tracking_server: str,
    model: str,
) -> Iterator[Platform]:
    with shared_engine.begin() as connection:
        write_contracts(connection, [build_contract(model)])
    settings = load_settings(home=tmp_path / "home", tracking_uri=tracking_server, serving_port=find_free_port())
    add_test_token(database_url)
    server = build_server(create_app(settings, database_url), settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    with httpx.Client(base_url=settings.serving_address, headers=HEADERS, timeout=20) as client:
        yield Platform(model, shared_engine, registry, tracking, client, tmp_path)
    server.should_exit = True
    thread.join()


def test_transitions_are_followed_without_a_failed_request(platform: Platform) -> None:
    model, registry, engine = platform.model, platform.registry, platform.engine
    first, second = platform.register("mean"), platform.register("double")
    wait_until(lambda: platform.client.get("/health/ready").status_code == 200)
    assert platform.predict().status_code == 503
    promote(engine, registry, model, first, actor="test", cause="hand")
    wait_until(lambda: platform.predict().status_code == 200)
    assert platform.predict().json()["predictions"] == [25.0]

    stopping = threading.Event()
    failures: list[str] = []

    def hammer() -> None:
        with httpx.Client(base_url=platform.client.base_url, headers=HEADERS, timeout=20) as client:
            while not stopping.is_set():
                response = client.post(f"/models/{model}/predict", json=VALUES)
                if response.status_code != 200:
                    failures.append(response.text)

    thread = threading.Thread(target=hammer)
    thread.start()

    def check_followed(version: int) -> None:
        started_at = time.monotonic()
        wait_until(lambda: platform.predict().json()["version"] == version)
        assert time.monotonic() - started_at < FOLLOWED_WITHIN_S

    try:
        promote(engine, registry, model, second, actor="test", cause="hand")
        check_followed(second)
        rollback(engine, registry, model, actor="test")
        check_followed(first)
        # What a person does in MLflow's pages: no notification of ours.
        registry.move_to_production(model, second)
        check_followed(second)
    finally:
        stopping.set()
        thread.join()
    assert failures == []


def test_version_that_does_not_exist_is_named_with_those_that_do(platform: Platform) -> None:
    version = platform.register("mean")
    wait_until(lambda: platform.client.get("/health/ready").status_code == 200)
    answer = platform.client.post(f"/models/{platform.model}/predict", json=VALUES | {"version": version})
    assert answer.json()["version"] == version
    missing = platform.client.post(f"/models/{platform.model}/predict", json=VALUES | {"version": version + 5})
    assert missing.status_code == 404
    assert f"existing are {version}" in missing.json()["detail"]
