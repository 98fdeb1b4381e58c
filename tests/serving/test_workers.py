"""Several workers on one port: one set of numbers, one journal in the database."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import orjson
from sqlalchemy import Engine

from serving.metrics import _forget_dead
from tests.accounts import HEADERS, add_test_token
from tests.serving.onnx_models import build_contract, write_version
from tests.serving.reading import load_ids, load_request_counts
from tests.serving.running import declare, find_free_port, wait_until

VALUES = {"values": [10.0, 20.0, 30.0, 40.0]}
REQUESTS = 120


def test_workers_answer_for_each_other_and_journal_every_request(
    tmp_path: Path, own_database_url: str, own_engine: Engine
) -> None:
    declare(own_database_url, "prices")
    add_test_token(own_database_url)
    versions = tmp_path / "home" / "versions"
    write_version(versions / "prices" / "1", build_contract(), "mean")
    (versions / "resolved.json").write_bytes(orjson.dumps({"prices": {"target": "Production", "version": 1}}))
    address = f"http://127.0.0.1:{(port := find_free_port())}"
    environment = os.environ | {
        "DATABASE_URL": own_database_url,
        "MILLRACE_HOME": str(tmp_path / "home"),
        "MILLRACE_SERVING_PORT": str(port),
        "MILLRACE_SERVING_WORKERS": "2",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{find_free_port()}",
    }

    # A connection each: the kernel hands them to either worker.
    client = httpx.Client(
        base_url=address, headers=HEADERS, timeout=60, limits=httpx.Limits(max_keepalive_connections=0)
    )

    def find_ready() -> set[int]:
        try:
            if '"version":1' not in client.get("/models/prices").text:
                return set()
            return {client.get("/health/live").json()["process"]}
        except httpx.TransportError:
            return set()

    with (tmp_path / "serving.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "serve"],
            env=environment,
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=log,
        )
    try:
        processes: set[int] = set()

        def are_both_ready() -> bool:
            processes.update(find_ready())
            return len(processes) == 2

        wait_until(are_both_ready, 60)
        statuses = [client.post("/models/prices/predict", json=VALUES).status_code for _ in range(REQUESTS)]
        assert statuses.count(200) == REQUESTS
        for _ in range(4):
            text = client.get("/metrics").text
            counted = re.search(r'http_requests_total\{model="prices",status="200"\} (\S+)', text)
            assert counted is not None
            assert float(counted[1]) == REQUESTS
        wait_until(lambda: len(load_ids(own_engine)) == REQUESTS, 60)
        assert load_request_counts(own_engine) == (REQUESTS, 0)
    finally:
        client.close()
        server.terminate()
        server.wait(60)


def test_state_of_a_worker_that_died_is_dropped_and_its_counts_stay(tmp_path: Path) -> None:
    alive, dead = os.getpid(), 2**30
    for name in (f"gauge_livesum_{alive}.db", f"gauge_livesum_{dead}.db", f"counter_{dead}.db"):
        (tmp_path / name).touch()
    _forget_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"gauge_livesum_{alive}.db", f"counter_{dead}.db"}
