"""The platform in one command, asked through every door that it has; artifacts are on an S3 server."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import pytest
from botocore.client import BaseClient

from core.tracking_server import is_tracking_ready
from tests.conftest import REPOSITORY, find_free_port
from tests.journeys import mlflow_answers
from tests.journeys.conftest import BUCKET
from tests.journeys.hammering import hammering
from tests.journeys.running import MODEL, Platform, run_process, wait_for
from workloads.catalogue import load_catalogue

logger = logging.getLogger(__name__)

# The promise is two seconds; the machine of a test may be busy.
FOLLOW_S = 5.0
SAME = 1e-5


def test_up_prints_each_step_and_where_to_look(platform: Platform) -> None:
    output = platform.read_output()

    ready = [f"{name} is ready" for name in ("tracking", "control", "serving", "worker")]
    for step in ("the database answers", "rows of sample data brought in", *ready, f"training {MODEL}: fit"):
        assert step in output, step
    assert re.search(rf"│ {MODEL} +│ Production │ 1 +│ 1 +│ finished ", output)
    assert platform.address in output
    assert platform.tracking_address in output
    assert "Warning" not in output
    assert "Traceback" not in output


def test_documented_route_answers_the_documented_fields(platform: Platform, window: list[float]) -> None:
    answer = platform.post("/predict", {"values": window}).json()

    prediction = answer.pop("prediction")
    assert answer == {
        "ok": True,
        "checkpoint_path": "models:/prices/1",
        "sequence_length": len(window),
        "symbol": "BTC-USD",
        "feature": "Close",
    }
    assert prediction == pytest.approx(window[-1], rel=0.2)


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0] * 31])
def test_documented_route_refuses_another_number_of_values(platform: Platform, wrong: list[float]) -> None:
    response = platform.post("/predict", {"values": wrong})

    assert response.status_code == 422
    assert "30" in response.text


def test_every_door_answers_the_same(platform: Platform, window: list[float]) -> None:
    expected = pytest.approx(platform.predict(window)["predictions"][0], rel=SAME)
    values = ",".join(str(value) for value in window)

    assert platform.run_json("predict", MODEL, "--values", values) == {
        "model": MODEL,
        "version": 1,
        "prediction": expected,
    }
    program = [sys.executable, "-m", mlflow_answers.__name__, json.dumps(window)]
    done = run_process(program, {**platform.settings, "MLFLOW_TRACKING_URI": platform.tracking_address})
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"keras": expected, "pyfunc": expected}
    with _serving_with_mlflow(platform) as address:
        body = {"inputs": [[[value] for value in window]]}
        assert httpx.post(f"{address}/invocations", json=body, timeout=60).json() == {"predictions": [[expected]]}


def test_files_of_the_version_and_its_snapshot_are_in_the_bucket(platform: Platform, s3: BaseClient) -> None:
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    names = {key.rpartition("/")[2] for key in keys}

    assert {"MLmodel", "model.onnx", "contract.json", "reference.json", "evaluation.json"} <= names
    assert any("/snapshots/" in key and key.endswith(".parquet") for key in keys)
    assert not (platform.folder / "mlruns").exists()


def test_status_is_json_for_a_script(platform: Platform) -> None:
    status = platform.run_json("status")

    assert {name: answers for name, (_, answers) in status["processes"].items()} == {
        "serving": True,
        "control": True,
        "tracking": True,
        "worker": True,
        "ingest millrace-ingest": True,
    }
    assert {entry["model"]: (entry["target"], entry["production"]) for entry in status["models"]} == dict.fromkeys(
        load_catalogue(), ("Production", 1)
    )


def test_check_is_json_for_a_script(platform: Platform) -> None:
    finding = platform.run_json("check", MODEL)

    assert finding["model"] == MODEL
    assert finding["version"] == 1
    assert finding["outcome"] == "fine"
    assert finding["reasons"]


def test_second_up_on_the_same_folder_is_refused(platform: Platform) -> None:
    done = platform.run("up")

    assert done.returncode == 4
    assert f"already runs on {platform.home}" in done.stderr
    assert "Traceback" not in done.stderr


def test_mlflow_run_trains_within_the_run_that_it_made(platform: Platform) -> None:
    _run_project(platform, "train")

    models = platform.run_json("status")["models"]
    training = next(entry["training"] for entry in models if entry["model"] == MODEL)
    assert (training["cause"], training["state"], training["version"]) == ("project", "finished", 2)
    run = platform.build_mlflow_client().get_run(training["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.project.entryPoint"] == "train"
    assert run.data.tags["millrace.training_id"] == training["id"]


def test_mlflow_run_evaluates_the_production_version(platform: Platform) -> None:
    assert re.search(rf"{MODEL} version \d on \d+ rows: .*'mae'", _run_project(platform, "evaluate"))


def test_transition_made_by_hand_is_served_at_once_and_without_a_failed_request(
    platform: Platform, window: list[float]
) -> None:
    client = platform.build_mlflow_client()
    before = platform.predict(window)["version"]
    other = 3 - before
    with hammering(platform, window) as hammer:
        wait_for(lambda: hammer.prediction_ids, FOLLOW_S, "the first answers")
        with pytest.warns(FutureWarning, match="stages"):
            client.transition_model_version_stage(MODEL, str(other), "Production", archive_existing_versions=True)
        moved = time.monotonic()
        wait_for(lambda: hammer.find_time(other), FOLLOW_S * 4, f"version {other} answers")
        time.sleep(1.0)

    follow_s = (hammer.find_time(other) or 0.0) - moved
    logger.info("followed an external transition in %.2f s, %d requests", follow_s, len(hammer.prediction_ids))
    assert hammer.failures == []
    assert [version for version, _ in hammer.first_answers] == [before, other]
    assert follow_s < FOLLOW_S
    newest = wait_for(lambda: _find_external(platform), 60, "the history knows the transition")
    assert (newest["version"], newest["to_stage"], newest["previous_version"]) == (other, "Production", before)
    assert (newest["cause"], newest["state"]) == ("external", "finished")


def test_rollback_and_promotion_from_the_command_line_are_served(platform: Platform, window: list[float]) -> None:
    before = platform.predict(window)["version"]
    other = 3 - before

    rolled_back = platform.run_json("rollback", MODEL, "--reason", "it was a try")
    assert (rolled_back["version"], rolled_back["cause"], rolled_back["reason"]) == (other, "rollback", "it was a try")
    wait_for(lambda: platform.predict(window)["version"] == other, FOLLOW_S, f"version {other} answers")
    # What was rolled back from is not promoted by its verdict any more: a person overrides that with a reason.
    promoted = platform.run_json("promote", MODEL, str(before), "--override", "--reason", "it did better by hand")
    assert (promoted["version"], promoted["previous_version"]) == (before, other)
    assert (promoted["cause"], promoted["reason"]) == ("override", "it did better by hand")
    wait_for(lambda: platform.predict(window)["version"] == before, FOLLOW_S, f"version {before} answers")

    history = platform.run_json("history", MODEL)
    assert [entry["version"] for entry in history[:2]] == [before, other]


def test_pinned_version_must_exist(platform: Platform) -> None:
    done = platform.run("target", MODEL, "99")

    assert done.returncode == 3
    assert "'99'" in done.stderr
    assert "existing are" in done.stderr
    assert "Traceback" not in done.stderr


def test_target_is_served_and_set_back(platform: Platform, window: list[float]) -> None:
    production = platform.predict(window)["version"]
    pinned = 3 - production

    assert platform.run_json("target", MODEL, str(pinned)) == {"model": MODEL, "target": str(pinned)}
    wait_for(lambda: platform.predict(window)["version"] == pinned, FOLLOW_S, f"version {pinned} answers")
    assert platform.run_json("target", MODEL, "latest") == {"model": MODEL, "target": "latest"}
    assert platform.run_json("target", MODEL, "Production") == {"model": MODEL, "target": "Production"}
    wait_for(lambda: platform.predict(window)["version"] == production, FOLLOW_S, f"version {production} answers")


def test_mlflow_reaches_the_same_store_by_its_address(platform: Platform) -> None:
    store = platform.run("ui", "--store").stdout.strip()

    program = (
        "import mlflow, sys; print([m.name for m in mlflow.MlflowClient(*sys.argv[1:]).search_registered_models()])"
    )
    done = run_process([sys.executable, "-c", program, store, store], platform.settings)
    assert done.stdout.strip() == str(sorted(load_catalogue())), done.stderr[-2000:]


def _find_external(platform: Platform) -> dict[str, object] | None:
    newest: dict[str, object] = platform.run_json("history", MODEL, "--limit", "1")[0]
    return newest if newest["origin"] == "external" and newest["state"] == "finished" else None


def _run_project(platform: Platform, entry: str) -> str:
    command = [sys.executable, "-m", "mlflow", "run", str(REPOSITORY), "-e", entry]
    command += ["-P", f"workload={MODEL}", "--env-manager", "local"]
    done = run_process(command, {**platform.settings, "MLFLOW_TRACKING_URI": platform.tracking_address})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextmanager
def _serving_with_mlflow(platform: Platform) -> Iterator[str]:
    port = find_free_port()
    command: Sequence[str] = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{MODEL}/Production"]
    log_path = platform.folder / "mlflow-models-serve.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port)],
            env={**platform.settings, "MLFLOW_TRACKING_URI": platform.tracking_address},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: is_tracking_ready(f"http://127.0.0.1:{port}"), 180, "`mlflow models serve` answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
