"""Parts of the platform are killed and come back; nothing that was answered or stored is lost.

It runs after the other journeys: it ends with the shared platform stopped and started again.
"""

import logging
import os
import signal
import socket
import time

import httpx
import psycopg
import pytest
from mlflow import MlflowClient

from core.tracking_server import is_tracking_ready
from tests.journeys.conftest import S3Server
from tests.journeys.hammering import hammering
from tests.journeys.running import MODEL, Platform, find_processes, wait_for

logger = logging.getLogger(__name__)

RESTART_S = 120.0
_ENOUGH = 20


def test_serving_that_was_killed_serves_again_from_its_cache(platform: Platform, window: list[float]) -> None:
    before = platform.predict(window)
    cached = platform.home / "versions" / MODEL / str(before["version"]) / "manifest.json"
    file = cached.stat().st_ino
    number = platform.find_process("cli.main serve")

    os.kill(number, signal.SIGKILL)
    wait_for(lambda: not _answers(platform), 10, "serving is gone")
    wait_for(lambda: _answers(platform), RESTART_S, "serving answers again")

    after = platform.predict(window)
    assert platform.find_process("cli.main serve") != number
    assert (after["version"], after["predictions"]) == (before["version"], before["predictions"])
    # Not downloaded anew.
    assert cached.stat().st_ino == file


def test_predictions_go_on_while_the_tracking_server_is_killed(platform: Platform, window: list[float]) -> None:
    with hammering(platform, window) as hammer:
        os.kill(platform.find_process("uvicorn", "mlflow.server"), signal.SIGKILL)
        wait_for(lambda: not is_tracking_ready(platform.tracking_address), 10, "tracking is gone")
        asked = len(hammer.prediction_ids)
        wait_for(lambda: is_tracking_ready(platform.tracking_address), RESTART_S, "tracking answers again")

    assert hammer.failures == []
    assert len(hammer.prediction_ids) > asked + _ENOUGH


def test_predictions_go_on_while_the_store_of_artifacts_is_away(
    platform: Platform, window: list[float], s3_server: S3Server
) -> None:
    client = platform.build_mlflow_client()
    before = platform.predict(window)["version"]
    made = client.get_model_version(MODEL, str(before))
    model_id = str(made.source).removeprefix("models:/")
    copy = int(client.create_model_version(MODEL, str(made.source), made.run_id, model_id=model_id).version)
    s3_server.stop()
    try:
        with hammering(platform, window) as hammer:
            wait_for(lambda: hammer.prediction_ids, 10, "the first answers")
            _move_to_production(client, copy)
            ready = f"{platform.address}/health/ready"
            wait_for(lambda: "artifacts" in _find_degraded(httpx.get(ready, timeout=30)), RESTART_S, "it is noticed")
            asked = len(hammer.prediction_ids)
            wait_for(lambda: len(hammer.prediction_ids) > asked + _ENOUGH, 60, "answers go on")
            assert [version for version, _ in hammer.first_answers] == [before]
            s3_server.start()
            wait_for(lambda: hammer.find_time(copy), RESTART_S, "the version that could not be loaded answers")
    finally:
        if s3_server.is_away:
            s3_server.start()
    assert hammer.failures == []
    _move_to_production(client, before)
    wait_for(lambda: platform.predict(window)["version"] == before, 60, "the earlier version answers again")


def test_predictions_go_on_while_the_database_is_killed_and_none_is_lost(
    platform: Platform, window: list[float]
) -> None:
    number = platform.find_postmaster()
    with hammering(platform, window) as hammer:
        wait_for(lambda: hammer.prediction_ids, 10, "the first answers")
        os.kill(number, signal.SIGKILL)
        wait_for(lambda: _is_database_back(platform, number), RESTART_S, "the database answers again")
        time.sleep(1.0)

    assert hammer.failures == []
    assert len(hammer.prediction_ids) > _ENOUGH
    wait_for(lambda: set(hammer.prediction_ids) <= _load_ids(platform), 60, "every answered prediction is stored")
    counts = platform.query("SELECT count(*), count(DISTINCT id) FROM predictions")
    assert counts[0][0] == counts[0][1]


def test_work_goes_on_after_the_database_came_back(platform: Platform) -> None:
    assert platform.run_json("check", MODEL)["model"] == MODEL
    wait_for(lambda: platform.run_json("status")["processes"]["worker"][1], 60, "the worker gives its heartbeat")


def test_interrupt_stops_every_process_and_a_second_start_goes_on_from_what_is_there(
    platform: Platform, window: list[float]
) -> None:
    before = platform.predict(window)
    versions = len(platform.build_mlflow_client().search_model_versions(f"name='{MODEL}'"))
    observations = platform.query("SELECT count(*) FROM predictions")

    assert platform.interrupt() == 0
    assert find_processes(platform) == {}
    assert platform.read_output().endswith("Millrace has stopped; the data stay.\n")

    platform.start()
    logger.info("second start: %.0f s", platform.wait_until_settled())
    assert "training" not in platform.read_output().partition("Processes")[0]
    after = wait_for(lambda: _answers(platform) and platform.predict(window), RESTART_S, "serving answers")
    assert (after["version"], after["predictions"]) == (before["version"], before["predictions"])
    assert len(platform.build_mlflow_client().search_model_versions(f"name='{MODEL}'")) == versions
    assert platform.query("SELECT count(*) FROM predictions") >= observations


def test_platform_starts_again_after_its_own_process_was_killed(platform: Platform, window: list[float]) -> None:
    before = platform.predict(window)

    platform.kill()
    # PostgreSQL alone lives on, and the next start goes on with it.
    wait_for(lambda: set(find_processes(platform)) <= {platform.find_postmaster()}, 10, "its processes died with it")
    wait_for(lambda: not any(map(_is_open, platform.ports.values())), 10, "their ports are free")

    platform.start()
    platform.wait_until_settled()
    after = wait_for(lambda: _answers(platform) and platform.predict(window), RESTART_S, "serving answers")
    assert (after["version"], after["predictions"]) == (before["version"], before["predictions"])
    assert platform.interrupt() == 0
    assert find_processes(platform) == {}


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _move_to_production(client: MlflowClient, version: int) -> None:
    with pytest.warns(FutureWarning, match="stages"):
        client.transition_model_version_stage(MODEL, str(version), "Production", archive_existing_versions=True)


def _find_degraded(response: httpx.Response) -> list[str]:
    return [check["name"] for check in response.json()["checks"] if check["state"] == "degraded"]


def _answers(platform: Platform) -> bool:
    try:
        return httpx.get(f"{platform.address}/health/ready", timeout=5).is_success
    except httpx.TransportError:
        return False


def _is_database_back(platform: Platform, killed: int) -> bool:
    try:
        return platform.find_postmaster() != killed and bool(platform.query("SELECT 1"))
    except (FileNotFoundError, IndexError, psycopg.OperationalError):
        return False


def _load_ids(platform: Platform) -> set[str]:
    return {str(row[0]) for row in platform.query("SELECT id FROM predictions")}
