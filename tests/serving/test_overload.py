"""More than can be answered, slower than can be waited for, larger than is taken: refused, and nothing else suffers."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select

from core.database import create_database_engine
from core.tables.predictions import request_counts
from tests.accounts import HEADER_LINE, HEADERS
from tests.serving.folder_registry import FolderRegistry
from tests.serving.running import TIMEOUT_S, Served, serving, wait_until

VALUES = {"values": [10.0, 20.0, 30.0, 40.0]}


@pytest.fixture
def slow_too(tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry) -> Iterator[Served]:
    """Model `prices`, and model `slow`, which takes tenths of a second; two requests at once, of half a second."""
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.add("slow", 1, answers="slow")
    folder_registry.set_production("prices", 1)
    folder_registry.set_production("slow", 1)
    with serving(
        tmp_path,
        own_database_url,
        folder_registry,
        models=("prices", "slow"),
        max_concurrent_requests=2,
        request_timeout_s=60.0,
    ) as served:
        served.wait_for_version("prices", 1)
        served.wait_for_version("slow", 1)
        yield served


def test_requests_beyond_the_bound_are_told_to_come_again(slow_too: Served) -> None:
    answers: list[httpx.Response] = []

    def predict() -> None:
        answers.append(httpx.post(f"{slow_too.address}/models/slow/predict", json=VALUES, headers=HEADERS, timeout=60))

    threads = [threading.Thread(target=predict) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["type"] == "/problems/overloaded"
    assert int(refused.headers["Retry-After"]) > 0
    # The places are free again.
    assert slow_too.predict(VALUES).status_code == 200


def test_model_that_is_too_slow_is_given_up_and_the_others_answer(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    for model, answers in (("prices", "mean"), ("slow", "slow")):
        folder_registry.add(model, 1, answers=answers)  # type: ignore[arg-type]  # a literal
        folder_registry.set_production(model, 1)
    with serving(
        tmp_path, own_database_url, folder_registry, models=("prices", "slow"), request_timeout_s=0.05
    ) as served:
        served.wait_for_version("slow", 1)
        served.wait_for_version("prices", 1)
        answer = served.predict(VALUES, model="slow")
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems/answer-too-slow")
        assert served.predict(VALUES).status_code == 200
        wait_until(lambda: _load_failures(own_database_url) == [("slow", 1)])
        assert served.client.get("/health/ready").status_code == 200


def test_place_of_an_answer_that_was_given_up_stays_taken_until_it_is_computed(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("slow", 1, answers="slow")
    folder_registry.set_production("slow", 1)
    with serving(
        tmp_path,
        own_database_url,
        folder_registry,
        models=("slow",),
        request_timeout_s=0.05,
        max_concurrent_requests=1,
    ) as served:
        served.wait_for_version("slow", 1)
        first, second = (served.predict(VALUES, model="slow").status_code for _ in range(2))
        assert (first, second) == (504, 429)
        wait_until(lambda: "http_requests_in_progress 0.0" in served.client.get("/metrics").text)
        assert served.predict(VALUES, model="slow").status_code == 504


def test_clients_that_send_slowly_are_given_up_and_the_others_are_answered(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    with serving(tmp_path, own_database_url, folder_registry, request_timeout_s=2.0) as served:
        served.wait_for_version("prices", 1)
        slow = [_begin(served.address, length=200) for _ in range(50)]
        for connection in slow:
            connection.sendall(b'{"values"')
        assert served.predict(VALUES).status_code == 200
        for connection in slow:
            connection.settimeout(TIMEOUT_S)
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408")
            connection.close()
        assert served.predict(VALUES).status_code == 200


def test_body_that_comes_in_pieces_within_the_time_is_answered(steady: Served) -> None:
    body = b'{"values": [1, 2, 3, 4]}'
    connection = _begin(steady.address, length=len(body))
    for start in range(0, len(body), 5):
        connection.sendall(body[start : start + 5])
        time.sleep(0.01)
    connection.settimeout(TIMEOUT_S)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    connection.close()


def test_client_that_does_not_read_its_answer_holds_up_nobody(steady: Served) -> None:
    rows = b",".join([b"[1,2,3,4]"] * 10_000)
    body = b'{"values":[' + rows + b"]}"
    deaf = _begin(steady.address, length=len(body))
    deaf.sendall(body)
    for _ in range(20):
        assert steady.predict(VALUES).status_code == 200
    deaf.close()
    assert steady.predict(VALUES).status_code == 200


@pytest.mark.parametrize("is_declared", [True, False])
def test_body_of_a_hundred_megabytes_is_refused_before_it_is_read(steady: Served, is_declared: bool) -> None:
    size = 100 * 2**20
    connection = _begin(steady.address, length=size if is_declared else None)
    piece = b"1" * 2**16
    sent = 0
    try:
        while sent < size:
            connection.sendall(piece if is_declared else b"10000\r\n" + piece + b"\r\n")
            sent += len(piece)
    except OSError:
        # The answer came and the connection was closed.
        assert sent < size
    connection.settimeout(TIMEOUT_S)
    try:
        answer = connection.recv(65536)
    except ConnectionResetError:
        answer = b""
    connection.close()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
    assert sent <= 64 * 2**20
    assert steady.predict(VALUES).status_code == 200


def test_requests_that_break_off_give_their_places_back(slow_too: Served) -> None:
    for _ in range(10):
        connection = _begin(slow_too.address, length=1000)
        connection.sendall(b'{"val')
        connection.close()
    wait_until(lambda: slow_too.predict(VALUES).status_code == 200)
    time.sleep(0.1)
    assert [slow_too.predict(VALUES).status_code for _ in range(5)] == [200] * 5


def _begin(address: str, *, length: int | None) -> socket.socket:
    """A connection on which the head of a prediction request is sent."""
    parts = urlsplit(address)
    connection = socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=TIMEOUT_S)
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = f"POST /models/prices/predict HTTP/1.1\r\nHost: x\r\n{HEADER_LINE}"
    connection.sendall(f"{head}Content-Type: application/json\r\n{size}\r\n\r\n".encode())
    return connection


def _load_failures(database_url: str) -> list[tuple[str, int]]:
    """Models with requests that failed for reasons of a version, and how many."""
    engine = create_database_engine(database_url)
    with engine.connect() as connection:
        found = connection.execute(select(request_counts.c.model, request_counts.c.failures))
        counted = [(row.model, row.failures) for row in found if row.failures]
    engine.dispose()
    return counted
