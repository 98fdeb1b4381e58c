"""What is lost and what is counted twice when things die or go away under load: nothing."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import Engine

from core.embedded_database import EmbeddedDatabase
from tests.accounts import HEADERS
from tests.serving.folder_registry import FolderRegistry
from tests.serving.reading import load_feature_counts, load_ids, load_request_counts
from tests.serving.running import Served, declare, find_free_port, serving, serving_process, wait_until

VALUES = {"values": [10.0, 20.0, 30.0, 40.0]}


class Load:
    """Threads that predict until they are stopped, and the ids that they were answered."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ids: list[str] = []
        self.failures: list[int] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self.address, headers=HEADERS, timeout=60) as client:
            while not self._stopping.is_set():
                try:
                    response = client.post("/models/prices/predict", json={"values": [[1.0, 2.0, 3.0, 4.0]] * 2})
                except httpx.TransportError:
                    # The process was killed, or is not there yet.
                    time.sleep(0.02)
                    continue
                if response.status_code == 200:
                    self.ids.extend(response.json()["prediction_ids"])
                else:
                    self.failures.append(response.status_code)
                    time.sleep(0.02)


def test_killed_process_loses_no_answered_prediction_and_counts_none_twice(
    tmp_path: Path, own_database_url: str, own_engine: Engine, folder_registry: FolderRegistry
) -> None:
    declare(own_database_url, "prices")
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    port = find_free_port()
    with Load(f"http://127.0.0.1:{port}").running() as load:
        for _ in range(3):
            answered_before = len(load.ids)
            with serving_process(tmp_path, own_database_url, folder_registry, port) as process:
                wait_until(lambda: len(load.ids) > answered_before + 300)  # noqa: B023  used within the loop
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
    journal = tmp_path / "home" / "journal"
    with serving_process(tmp_path, own_database_url, folder_registry, port):
        # Ids that were answered, and what was recorded and killed before its answer.
        wait_until(lambda: set(load.ids) <= set(load_ids(own_engine)))
        wait_until(lambda: len(list(journal.glob("*/lock"))) == 1)
    stored = load_ids(own_engine)
    assert len(stored) == len(set(stored))
    assert load_request_counts(own_engine) == (len(stored), 0)
    assert load_feature_counts(own_engine).total() == len(stored)


def test_killed_shipping_is_started_again_and_counts_nothing_twice(served: Served, own_engine: Engine) -> None:
    def find_child() -> int | None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                is_ours = process.environ().get("MILLRACE_HOME") == str(served.settings.home)
                if is_ours and "serving.shipping_process" in process.cmdline():
                    return process.pid
        return None

    with Load(served.address).running() as load:
        for _ in range(3):
            stored_before = len(load_ids(own_engine))
            wait_until(lambda: len(load_ids(own_engine)) > stored_before + 50)  # noqa: B023  used within the loop
            wait_until(lambda: find_child() is not None)
            os.kill(find_child() or 0, signal.SIGKILL)
    assert load.failures == []
    wait_until(lambda: len(load_ids(own_engine)) >= len(load.ids))
    stored = load_ids(own_engine)
    assert sorted(stored) == sorted(load.ids)
    assert load_request_counts(own_engine) == (len(stored), 0)
    assert load_feature_counts(own_engine).total() == len(stored)


@pytest.mark.parametrize("what", ["tracking", "artifacts"])
def test_tracking_or_artifacts_away_under_load_fail_no_request(served: Served, what: str) -> None:
    with Load(served.address).running() as load:
        wait_until(lambda: len(load.ids) > 50)
        served.registry.set_away(what, is_away=True)
        if what == "artifacts":
            served.registry.add("prices", 2, answers="double")
            served.registry.set_production("prices", 2)
        wait_until(lambda: "away by the test's wish" in served.client.get("/health/ready").text)
        answered_before = len(load.ids)
        wait_until(lambda: len(load.ids) > answered_before + 200)
        assert served.get_version("prices") == 1
        served.registry.set_away(what, is_away=False)
        served.registry.add("prices", 3, answers="double")
        served.registry.set_production("prices", 3)
        served.wait_for_version("prices", 3)
    assert load.failures == []


def test_damaged_and_nan_versions_fail_no_request_under_load(served: Served) -> None:
    with Load(served.address).running() as load:
        for version, answers in ((2, "damaged"), (3, "nan")):
            served.registry.add("prices", version, answers=answers)  # type: ignore[arg-type]  # literals
            served.registry.set_production("prices", version)
            wait_until(lambda: f'"version":{version},"reason"' in served.client.get("/models/prices").text)  # noqa: B023
            assert served.get_version("prices") == 1
        answered_before = len(load.ids)
        wait_until(lambda: len(load.ids) > answered_before + 100)
    assert load.failures == []


def test_stopped_process_ships_what_it_recorded(
    tmp_path: Path, own_database_url: str, own_engine: Engine, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    with serving(tmp_path, own_database_url, folder_registry) as served:
        served.wait_for_version("prices", 1)
        for _ in range(20):
            served.predict(VALUES)
    assert len(load_ids(own_engine)) == 20
    assert list((tmp_path / "home" / "journal").glob("*/*")) == []


def test_database_away_under_load_loses_nothing(served: Served, own_engine: Engine, database: EmbeddedDatabase) -> None:
    with Load(served.address).running() as load:
        wait_until(lambda: len(load_ids(own_engine)) > 50)
        own_engine.dispose()
        database.stop()
        answered_before = len(load.ids)
        wait_until(lambda: len(load.ids) > answered_before + 500)
        ready = served.client.get("/health/ready")
        assert ready.status_code == 200
        wait_until(lambda: "away" in served.client.get("/health/ready").text)
        database.start()
        wait_until(lambda: len(load_ids(own_engine)) > answered_before + 400)
    assert load.failures == []
    wait_until(lambda: len(load_ids(own_engine)) >= len(load.ids))
    stored = load_ids(own_engine)
    assert sorted(stored) == sorted(load.ids)
    assert load_request_counts(own_engine) == (len(stored), 0)
    assert load_feature_counts(own_engine).total() == len(stored)


def test_full_journal_answers_unavailable_until_the_database_is_back(
    tmp_path: Path,
    own_database_url: str,
    own_engine: Engine,
    database: EmbeddedDatabase,
    folder_registry: FolderRegistry,
) -> None:
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    with serving(tmp_path, own_database_url, folder_registry, journal_max_bytes=20_000) as served:
        served.wait_for_version("prices", 1)
        own_engine.dispose()
        database.stop()
        answered = 0
        while (response := served.predict(VALUES)).status_code == 200:
            answered += 1
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/journal-full"
        assert response.headers["Retry-After"]
        assert sum(path.stat().st_size for path in tmp_path.glob("home/journal/*/*.journal")) <= 20_000
        database.start()
        wait_until(lambda: served.predict(VALUES).status_code == 200)
        wait_until(lambda: len(load_ids(own_engine)) == answered + 1)


def test_stop_answers_the_requests_that_were_accepted(
    tmp_path: Path, own_database_url: str, own_engine: Engine, folder_registry: FolderRegistry
) -> None:
    declare(own_database_url, "prices")
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    port = find_free_port()
    answers: list[int] = []

    def predict_slowly() -> None:
        def build_body() -> Iterator[bytes]:
            yield b'{"values": [1, 2, '
            time.sleep(1.0)
            yield b"3, 4]}"

        response = httpx.post(
            f"http://127.0.0.1:{port}/models/prices/predict",
            content=build_body(),
            headers={**HEADERS, "Content-Type": "application/json"},
            timeout=60,
        )
        answers.append(response.status_code)

    def is_ready() -> bool:
        try:
            return "version 1 serves" in httpx.get(f"http://127.0.0.1:{port}/health/ready").text
        except httpx.TransportError:
            return False

    with serving_process(tmp_path, own_database_url, folder_registry, port) as process:
        wait_until(is_ready)
        threads = [threading.Thread(target=predict_slowly) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        process.wait(60)
    assert answers == [200] * 4
    assert len(load_ids(own_engine)) == 4


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_control_that_is_away_is_named(served: Served, method: str) -> None:
    response = served.client.request(method, "/trainings", content=b"x" if method == "POST" else None)
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/upstream-unavailable"
    assert "control" in response.json()["detail"]
