"""Jobs as server-sent events, straight and through the forwarder that stands in front of control."""

import json
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI

from control import job_events
from core.job_lines import append_lines
from core.trainings import finish_training, record_step, start_attempt
from tests.accounts import HEADER_LINE, HEADERS
from tests.control.running import Controlled
from tests.processes import wait_until
from tests.web.running import running
from web.forwarding import Forwarder
from web.problems import install_problem_details

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Event:
    name: str
    id: int
    data: dict[str, object]


def read_events(response: httpx.Response) -> Iterator[Event]:
    """The events of a stream, by the rules of the HTML standard; comments are left out."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield Event(fields["event"], int(fields["id"]), json.loads(fields["data"]))
        fields = {}


@pytest.fixture
def front(controlled: Controlled) -> Iterator[str]:
    """The address of a server that forwards everything to control, as serving does."""
    forwarder = Forwarder("control", controlled.address)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await forwarder.close()

    app = FastAPI(lifespan=lifespan)
    install_problem_details(app)
    app.router.default = forwarder
    with running(app) as address:
        yield address


@pytest.fixture
def job_id(controlled: Controlled) -> uuid.UUID:
    """A training whose first attempt has begun and has said two things."""
    training_id = uuid.UUID(controlled.client.post("/models/prices/trainings").json()["id"])
    with controlled.connections.engine.begin() as connection:
        start_attempt(connection, training_id)
        append_lines(connection, training_id, 1, ["one", "two"])
    return training_id


def get_followers(controlled: Controlled) -> job_events.Followers:
    followers: job_events.Followers = controlled.app.state.followers
    return followers


def count_followers(controlled: Controlled) -> int:
    return get_followers(controlled).count


def finish(controlled: Controlled, job_id: uuid.UUID) -> None:
    with controlled.connections.engine.begin() as connection:
        append_lines(connection, job_id, 1, ["last"])
        finish_training(connection, job_id, 1)


@pytest.mark.parametrize("way", ["straight", "forwarded"])
def test_job_is_followed_to_its_end(controlled: Controlled, front: str, job_id: uuid.UUID, way: str) -> None:
    address = front if way == "forwarded" else controlled.address
    with (
        httpx.Client(base_url=address, headers=HEADERS, timeout=TIMEOUT_S) as client,
        client.stream("GET", f"/jobs/{job_id}/events") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        events = read_events(response)
        first = [next(events) for _ in range(3)]
        assert [(event.name, event.data.get("text")) for event in first] == [
            ("state", None),
            ("line", "one"),
            ("line", "two"),
        ]
        assert (first[0].data["state"], first[0].data["step"]) == ("running", "started")
        with controlled.connections.engine.begin() as connection:
            record_step(connection, job_id, 1, step="fit", progress=0.5)
        moved = next(events)
        assert (moved.name, moved.data["step"], moved.data["progress"]) == ("state", "fit", 0.5)
        finish(controlled, job_id)
        rest = list(events)
    assert [event.name for event in rest] == ["line", "state", "end"]
    assert (rest[0].data["text"], rest[1].data["state"], rest[2].data) == ("last", "finished", {"state": "finished"})
    assert [event.id for event in rest] == [rest[0].id] * 3


def test_client_that_comes_back_gets_the_lines_after_the_last_that_it_saw(
    controlled: Controlled, job_id: uuid.UUID
) -> None:
    finish(controlled, job_id)

    def follow(**headers: str) -> list[Event]:
        with controlled.client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
            return list(read_events(response))

    every = follow()
    lines = [event for event in every if event.name == "line"]
    assert [event.data["text"] for event in lines] == ["one", "two", "last"]
    again = follow(**{"Last-Event-ID": str(lines[0].id)})
    assert [event.name for event in again] == ["state", "line", "line", "end"]
    assert [event.name for event in follow(**{"Last-Event-ID": str(every[-1].id)})] == ["state", "end"]
    for rubbish in ("x", "-1", "9" * 5000, "1.5"):
        assert len(follow(**{"Last-Event-ID": rubbish})) == len(every)


def test_silent_stream_shows_that_it_lives(
    controlled: Controlled, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "HEARTBEAT_S", 0.1)
    with controlled.client.stream("GET", f"/jobs/{job_id}/events") as response:
        assert next(line for line in response.iter_lines() if line.startswith(":")) == ": still here"


@pytest.mark.parametrize("way", ["straight", "forwarded"])
def test_client_that_goes_away_is_followed_no_more(
    controlled: Controlled, front: str, job_id: uuid.UUID, way: str
) -> None:
    address = front if way == "forwarded" else controlled.address
    with (
        httpx.Client(base_url=address, headers=HEADERS, timeout=TIMEOUT_S) as client,
        client.stream("GET", f"/jobs/{job_id}/events") as response,
    ):
        # Kept: an iterator of a response closes it when nobody holds it any more.
        events = read_events(response)
        next(events)
        assert count_followers(controlled) == 1
    # The job still runs.
    wait_until(lambda: count_followers(controlled) == 0, TIMEOUT_S)


def test_client_that_reads_nothing_disturbs_nobody_and_is_dropped_in_time(
    controlled: Controlled, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "LONGEST_S", 2.0)
    monkeypatch.setattr(job_events, "UNREAD_S", 2.0)
    with controlled.connections.engine.begin() as connection:
        # Far more than the buffers between two processes take.
        append_lines(connection, job_id, 1, ["é" * 2000] * 2000)
    url = httpx.URL(controlled.address)
    with socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.connect((url.host, url.port or 0))
        idle.sendall(f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {url.netloc.decode()}\r\n{HEADER_LINE}\r\n".encode())
        wait_until(lambda: count_followers(controlled) == 1, TIMEOUT_S)
        assert controlled.client.get(f"/jobs/{job_id}").status_code == 200
        wait_until(lambda: count_followers(controlled) == 0, TIMEOUT_S)


def test_more_followers_than_there_is_room_for_are_asked_to_come_back(
    controlled: Controlled, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "MOST_FOLLOWERS", 1)
    path = f"/jobs/{job_id}/events"
    with controlled.client.stream("GET", path) as response:
        events = read_events(response)
        next(events)
        refused = controlled.client.get(path)
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/too-many-followers")
        assert "retry-after" in refused.headers
    wait_until(lambda: count_followers(controlled) == 0, TIMEOUT_S)


def test_stream_goes_on_after_the_database_was_away(
    controlled: Controlled, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    with controlled.client.stream("GET", f"/jobs/{job_id}/events") as response:
        events = read_events(response)
        assert [next(events).name for _ in range(3)] == ["state", "line", "line"]
        with controlled.connections.engine.connect() as connection:
            # The connections are cut, as when the server is started again.
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finish(controlled, job_id)
        assert [event.name for event in events] == ["line", "state", "end"]


def test_server_that_stops_does_not_wait_for_the_streams(controlled: Controlled, job_id: uuid.UUID) -> None:
    ended: list[float] = []

    def follow() -> None:
        with httpx.stream(
            "GET", f"{controlled.address}/jobs/{job_id}/events", headers=HEADERS, timeout=TIMEOUT_S
        ) as response:
            for _ in response.iter_bytes():
                pass
        ended.append(time.monotonic())

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until(lambda: count_followers(controlled) == 1, TIMEOUT_S)
    get_followers(controlled).is_stopping = True
    thread.join(TIMEOUT_S)
    assert len(ended) == 1
