"""Refusals of the serving process in the audit log."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from sqlalchemy import Engine, create_engine

from core.audit import EVERYTHING, StoredEntry, load_entries
from tests.accounts import HEADERS
from tests.serving.folder_registry import FolderRegistry
from tests.serving.running import serving, wait_until

VALUES = {"values": [10.0, 20.0, 30.0, 40.0]}


def load_log(engine: Engine) -> list[StoredEntry]:
    with engine.connect() as connection:
        return load_entries(connection, EVERYTHING, 100)


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _refusing() -> Iterator[str]:
    """A process in control's place that refuses everything."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_refused_predictions_are_counted_together_and_answered_ones_not(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("slow", 1, answers="slow")
    folder_registry.set_production("slow", 1)
    engine = create_engine(own_database_url)
    with serving(tmp_path, own_database_url, folder_registry, models=("slow",), max_concurrent_requests=1) as served:
        served.wait_for_version("slow", 1)
        statuses: list[int] = []

        def predict() -> None:
            answer = httpx.post(f"{served.address}/models/slow/predict", json=VALUES, headers=HEADERS, timeout=60)
            statuses.append(answer.status_code)

        threads = [threading.Thread(target=predict) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = statuses.count(429)
        assert refused > 0
        wait_until(lambda: sum(entry.times for entry in load_log(engine)) >= refused)
    found = load_log(engine)
    engine.dispose()
    assert sum(entry.times for entry in found) == refused
    assert {(entry.process, entry.action, entry.model) for entry in found} == {
        ("serving", "POST /models/{model}/predict", "slow")
    }
    assert {(entry.outcome, entry.status, entry.reason) for entry in found} == {("refused", 429, "overloaded")}
    assert {entry.client for entry in found} == {"127.0.0.1"}


def test_refusals_of_the_last_moment_are_stored_and_those_of_control_are_not_stored_twice(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("slow", 1, answers="slow")
    folder_registry.set_production("slow", 1)
    engine = create_engine(own_database_url)
    with (
        _refusing() as address,
        serving(
            tmp_path,
            own_database_url,
            folder_registry,
            models=("slow",),
            max_concurrent_requests=1,
            control_url=address,
        ) as served,
    ):
        served.wait_for_version("slow", 1)
        assert served.client.get("/trainings").status_code == 403
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda _: served.predict(VALUES, "slow").status_code, range(4)))
    found = load_log(engine)
    engine.dispose()
    assert sum(entry.times for entry in found) == statuses.count(429) > 0
    assert {entry.status for entry in found} == {429}
