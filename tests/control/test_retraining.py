"""A file and the training on it, over HTTP."""

import asyncio
import gc
import resource
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import insert, text

from control.retraining import _find_preferred_wait
from control.waiting import LONGEST_WAIT_S, TrainingEnds
from core.connections import Connections
from core.contracts import write_contracts
from core.tables.data import snapshots
from core.trainings import fail_training, finish_training, get_training, record_step, start_attempt
from core.verdicts import Verdict, store_verdict
from tests.accounts import ACTOR, HEADERS
from tests.control.running import Controlled
from tests.processes import wait_until
from workloads.catalogue import get_workload

_PATH = "/models/failures/retrain"
_HEADING = "KNR,unique_names,1_status_10,2_status_10,718_status_10,1_status_13,2_status_13,718_status_13"
_LINE = "2024.{},3,0.0,12.0,13.0,2.0,0.0,{}"
_ENDS_S = 60.0
_AT_ONCE = 1000


def _write(rows: int = 6, first: int = 0) -> bytes:
    lines = [_LINE.format(first + row, row % 2) for row in range(rows)]
    return "\n".join([_HEADING, *lines, ""]).encode()


@pytest.fixture
def declared(controlled: Controlled) -> Controlled:
    """The control plane with models `failures` and `books` declared; no tracking server answers."""
    declare(controlled.connections)
    return controlled


def declare(connections: Connections) -> None:
    with connections.engine.begin() as connection:
        write_contracts(connection, [get_workload(name).build_contract() for name in ("failures", "books")])


def send(
    controlled: Controlled, content: bytes, path: str = _PATH, *, name: str = "new.csv", **given: Any
) -> httpx.Response:
    return controlled.client.post(path, files={"file": (name, content, "text/csv")}, **given)


def select(controlled: Controlled, statement: str) -> Sequence[tuple[object, ...]]:
    with controlled.connections.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def count_rows(controlled: Controlled) -> int:
    if select(controlled, "SELECT to_regclass('observations_failures')") == [(None,)]:
        return 0
    return int(str(select(controlled, "SELECT count(*) FROM observations_failures")[0][0]))


def end_training(controlled: Controlled, training_id: uuid.UUID, error: str | None = None) -> None:
    """What a worker leaves behind: a version that passed the gate, or a reason."""
    with controlled.connections.engine.begin() as connection:
        attempt = start_attempt(connection, training_id).attempt
        if error is not None:
            fail_training(connection, training_id, attempt, error)
            return
        verdict = Verdict("failures", 4, 3, "promote", "It is better.", ())
        verdict_id = store_verdict(connection, verdict, training_id)
        finish_training(connection, training_id, attempt, version=4, verdict_id=verdict_id)
        name = {"model": "failures", "name": "1.2.0", "id": training_id}
        statement = "INSERT INTO version_names (model, name, training_id, version) VALUES (:model, :name, :id, 4)"
        connection.execute(text(statement), name)


def end_soon(controlled: Controlled, error: str | None = None) -> threading.Thread:
    """End the next training as soon as it is there."""

    def work() -> None:
        deadline = time.monotonic() + _ENDS_S
        while not (found := select(controlled, "SELECT id FROM trainings WHERE state = 'queued'")):
            if time.monotonic() > deadline:
                raise TimeoutError("no training was requested")
            time.sleep(0.05)
        end_training(controlled, uuid.UUID(str(found[0][0])), error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


# --- the documented request --------------------------------------------------------------------------------------


def test_file_is_stored_and_its_training_is_queued_in_one_transaction(declared: Controlled) -> None:
    answer = send(declared, _write(), data={"epochs": "5", "batch_size": "32", "version_name": "1.2.0"})
    assert answer.status_code == 202, answer.text
    document = answer.json()
    training = document["training"]
    assert answer.headers["location"] == f"/trainings/{training['id']}"
    assert (training["state"], training["cause"], training["actor"]) == ("queued", "upload", ACTOR)
    assert training["parameters"] == {
        "max_epochs": 5,
        "batch_size": 32,
        "continue": "where_possible",
        "version_name": "1.2.0",
    }
    assert document["imported"]["rows_new"] == count_rows(declared) == 6
    assert (document["is_new"], document["includes_file"], document["version"]) == (True, True, None)
    assert training["source_id"] == document["source_id"]
    # Both rows bear the number of the transaction that wrote them.
    numbers = select(declared, "SELECT xmin::text FROM trainings UNION SELECT xmin::text FROM sources")
    assert len(numbers) == 1
    assert select(declared, "SELECT task_name, args->>'training_id' FROM procrastinate_jobs") == [
        ("train", training["id"])
    ]
    assert declared.client.get(answer.headers["location"]).json() == training


def test_import_is_rolled_back_where_the_training_cannot_be_requested(
    declared: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_fields: object) -> None:
        raise RuntimeError("the queue is gone")

    monkeypatch.setattr("core.trainings.enqueue", fail)
    assert send(declared, _write()).status_code == 500
    assert count_rows(declared) == 0
    assert select(declared, "SELECT id FROM sources") == select(declared, "SELECT id FROM trainings") == []


def test_mode_says_whether_weights_are_continued(declared: Controlled) -> None:
    for mode, wish in (("anew", 0), ("continue", 1)):
        training = send(declared, _write(), data={"mode": mode}).json()["training"]
        assert training["parameters"]["continue"] == wish
        end_training(declared, uuid.UUID(training["id"]), "enough")
    answer = send(declared, b"user_id,book_id,rating\n1,2,5\n", "/models/books/retrain", data={"mode": "continue"})
    assert answer.status_code == 422
    assert "a ranking is always trained anew" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": "0"}, "epochs='0' is not allowed: a whole number from 1 to 1000"),
        ({"epochs": "many"}, "epochs='many'"),
        ({"epochs": "2.5"}, "epochs='2.5'"),
        ({"epochs": "nan"}, "epochs='nan'"),
        ({"batch_size": "100000"}, "batch_size='100000' is not allowed: a whole number from 8 to 4096"),
        ({"epoch": "5"}, "there is no such field; known are file, epochs, batch_size"),
        ({"mode": "more"}, "allowed are continue, anew"),
        ({"version_name": "Production"}, "it is neither Production nor latest"),
        ({"version_name": "../../etc"}, "a name has up to 63 letters"),
        ({"version_name": "'; DROP TABLE trainings; --"}, "a name has up to 63 letters"),
        ({"encoding": "ebcdic"}, "allowed are utf-8, latin-1, windows-1252"),
        ({"sheet": "x" * 101}, "at most 100 characters"),
    ],
)
def test_field_that_is_not_allowed_refuses_the_request_and_stores_nothing(
    declared: Controlled, fields: dict[str, str], said: str
) -> None:
    answer = send(declared, _write(), data=fields)
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"]
    assert count_rows(declared) == 0


def test_epochs_of_a_model_without_such_a_parameter_are_refused(declared: Controlled) -> None:
    contract = get_workload("failures").build_contract()
    known = tuple(parameter for parameter in contract.parameters if parameter.name != "max_epochs")
    with declared.connections.engine.begin() as connection:
        write_contracts(connection, [contract.model_copy(update={"parameters": known})])
    answer = send(declared, _write(), data={"epochs": "5"})
    assert answer.status_code == 422
    assert "epochs='5' is not allowed: nothing: the model has no parameter max_epochs" in answer.json()["detail"]


def test_version_name_that_is_taken_is_refused(declared: Controlled) -> None:
    first = send(declared, _write(), data={"version_name": "1.2.0"}).json()["training"]["id"]
    end_training(declared, uuid.UUID(first))
    answer = send(declared, _write(first=50), data={"version_name": "1.2.0"})
    assert answer.status_code == 409
    assert count_rows(declared) == 6


# --- what an upload may be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_write().replace(b",2_status_10", b"", 1).replace(b",12.0", b""), "2_status_10"),
        (_write().replace(b"12.0", b"many", 1), "2_status_10"),
        (_write().replace(b",0\n", b",7\n", 1), "718_status_13"),
        (b"", "an empty file"),
        (f"{_HEADING}\n".encode(), "no rows"),
        (_write().replace(b"2024.3", b"caf\xe9.3", 1), "UTF-8"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"PK\x03\x04 not a workbook", "a ZIP file that is cut off"),
    ],
    ids=[
        "missing column",
        "wrong type",
        "out of bounds",
        "empty",
        "no rows",
        "wrong encoding",
        "pdf",
        "broken workbook",
    ],
)
def test_file_with_a_fault_is_refused_by_name_and_trains_nothing(
    declared: Controlled, content: bytes, said: str
) -> None:
    answer = send(declared, content)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == "/problems/rows-rejected"
    assert said.lower() in answer.text.lower()
    assert count_rows(declared) == 0
    assert select(declared, "SELECT id FROM trainings") == []


def test_file_is_taken_by_its_content_whatever_it_says_of_itself(declared: Controlled) -> None:
    rows = [dict(zip(_HEADING.split(","), _LINE.format(row, row % 2).split(","), strict=True)) for row in range(3)]
    for row in rows:
        row.update({name: float(value) for name, value in row.items() if name != "KNR"})  # type: ignore[misc]
    files = {"file": ("../../etc/cron.d/new.xlsx", httpx.Response(200, json=rows).content, "image/png")}
    answer = declared.client.post(_PATH, files=files)
    assert answer.status_code == 202, answer.text
    assert count_rows(declared) == 3
    assert select(declared, "SELECT name, form, actor FROM sources") == [("new.xlsx", "json", ACTOR)]


def test_form_without_exactly_one_file_is_refused(declared: Controlled) -> None:
    two = [("file", ("a.csv", _write())), ("file", ("b.csv", _write(first=9)))]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"files": {"data": ("new.csv", _write())}}, "there is no such field"),
        ({"files": two}, "exactly one file is needed"),
        ({"files": {"other": ("x", b"y")}, "data": {"file": "new.csv"}}, "a file is needed"),
        ({"files": {"file": ("new.csv", _write())}, "data": {"epochs": ["3", "4"]}}, "it is given twice"),
        ({"files": {"file": ("new.csv", _write()), "epochs": ("e", b"3")}}, "only the field file is a file"),
    ]
    for fields, said in cases:
        answer = declared.client.post(_PATH, **fields)
        assert answer.status_code == 422, answer.text
        assert said in answer.json()["detail"]
    for content in (b"", _write()):
        answer = declared.client.post(_PATH, content=content, headers={"Content-Type": "text/csv"})
        assert answer.status_code == 415, answer.text
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert declared.client.post(_PATH, content=b"--y\r\n", headers=broken).status_code in (400, 422)
    assert count_rows(declared) == 0
    assert select(declared, "SELECT id FROM trainings") == []


def test_upload_over_the_limit_is_refused(declared: Controlled) -> None:
    assert send(declared, b"x" * 300_000).status_code == 413
    assert send(declared, b"x" * 120_000).status_code == 413
    assert select(declared, "SELECT id FROM sources") == []


def test_upload_shorter_than_it_says_stores_nothing(declared: Controlled) -> None:
    parts = urlsplit(declared.address)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="new.csv"\r\n\r\n' + _write()
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
        heading = (
            f"POST {_PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {len(body) + 5000}\r\n\r\n"
        )
        connection.sendall(heading.encode() + body)
    time.sleep(0.5)
    assert count_rows(declared) == 0
    assert select(declared, "SELECT id FROM trainings") == []


def test_unknown_model_and_hostile_names_are_refused(declared: Controlled) -> None:
    assert send(declared, _write(), "/models/nothing/retrain").status_code == 404
    for name in ("..%2f..%2fetc", "a;DROP TABLE trainings", "A"):
        assert send(declared, _write(), f"/models/{name}/retrain").status_code in (404, 422)


# --- one at a time -----------------------------------------------------------------------------------------------


def test_request_while_one_is_queued_is_answered_with_it_and_its_rows_are_included(declared: Controlled) -> None:
    first = send(declared, _write()).json()
    second = send(declared, _write(first=50))
    assert second.status_code == 202
    document = second.json()
    assert document["training"] == first["training"]
    assert (document["is_new"], document["includes_file"]) == (False, True)
    assert "It was requested before" in document["message"]
    assert count_rows(declared) == 12
    assert len(select(declared, "SELECT id FROM procrastinate_jobs")) == 1


def test_request_while_one_runs_stores_the_rows_and_says_that_they_are_not_in_it(declared: Controlled) -> None:
    training_id = uuid.UUID(send(declared, _write()).json()["training"]["id"])
    with declared.connections.engine.begin() as connection:
        attempt = start_attempt(connection, training_id).attempt
    reading = send(declared, _write(first=50)).json()
    assert (reading["includes_file"], reading["training"]["state"]) == (None, "running")
    assert "It may not include this file's rows" in reading["message"]
    with declared.connections.engine.begin() as connection:
        snapshot = {"digest": "d", "model": "failures", "uri": "", "rows": 6, "bytes": 1, "query": {}}
        connection.execute(insert(snapshots).values(**snapshot))
        record_step(connection, training_id, attempt, step="fit", progress=0.1, snapshot_digest="d")
    fitting = send(declared, _write(first=90)).json()
    assert fitting["includes_file"] is False
    assert "ask again when it has ended" in fitting["message"]
    assert count_rows(declared) == 18


def test_same_file_twice_is_one_source(declared: Controlled) -> None:
    first, again = send(declared, _write()).json(), send(declared, _write(), name="renamed.csv").json()
    assert again["source_id"] == first["source_id"]
    assert again["imported"]["rows_unchanged"] == 6
    send(declared, _write().replace(b"12.0", b"13.0"))
    # Now it changes rows, so that it is a delivery of its own.
    assert send(declared, _write()).json()["source_id"] != first["source_id"]
    assert len(select(declared, "SELECT id FROM sources")) == 3


def count_open_files(folder: Path) -> int:
    """How many files below `folder` this process holds open, deleted ones too."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith(f"{folder}/")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def many_files() -> Iterator[None]:
    """Leave to open as many files as both ends of a thousand connections are."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(before[0], min(4096, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_a_thousand_requests_at_once_are_one_training_and_leave_nothing_open(
    declared: Controlled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    contents = [_write(), _write(first=50)]
    limits = httpx.Limits(max_connections=_AT_ONCE)
    asking = httpx.Client(base_url=declared.address, headers=HEADERS, timeout=300, limits=limits)
    with asking as client, ThreadPoolExecutor(_AT_ONCE) as pool:

        def ask(number: int) -> httpx.Response:
            return client.post(_PATH, files={"file": ("new.csv", contents[number % 2])})

        answers = list(pool.map(ask, range(_AT_ONCE)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["training"]["id"] for answer in answers}) == 1
    assert sum(answer.json()["is_new"] for answer in answers) == 1
    assert len({answer.json()["source_id"] for answer in answers}) == 2
    assert len(select(declared, "SELECT id FROM sources")) == 2
    assert len(select(declared, "SELECT id FROM procrastinate_jobs")) == 1
    assert count_rows(declared) == 12
    gc.collect()
    assert list(spool.iterdir()) == []
    assert count_open_files(spool) == 0
    # The process itself looks at the accounts now and then.
    wait_until(lambda: declared.connections.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]


def test_large_upload_leaves_no_file_behind(
    declared: Controlled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("starlette.formparsers.MultiPartParser.spool_max_size", 1000)
    for content in (_write(900), _write(900) + b"x,y\n", b"%PDF" + b"x" * 9000):
        send(declared, content)
    gc.collect()
    assert count_open_files(tmp_path) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "millrace-" in path.name] == []


# --- waiting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "applied"),
    [
        ({"params": {"wait": 30}}, None),
        ({"headers": {"Prefer": "respond-async, wait=30"}}, "wait=30"),
        ({"headers": {"Prefer": "wait=9999"}}, f"wait={LONGEST_WAIT_S}"),
    ],
)
def test_request_that_waits_is_answered_with_the_new_version(
    declared: Controlled, given: dict[str, Any], applied: str | None
) -> None:
    ending = end_soon(declared)
    answer = send(declared, _write(), **given)
    ending.join(_ENDS_S)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert answer.headers.get("preference-applied") == applied
    assert (document["version"], document["version_name"]) == (4, "1.2.0")
    assert document["model_uri"] == "models:/failures/4"
    assert document["version_url"] == "/mlflow/#/models/failures/versions/4"
    assert "succeeded and made version 4. The gate: promote, It is better." in document["message"]
    assert document["training"]["verdict"]["outcome"] == "promote"


def test_wait_that_ends_before_the_training_is_answered_with_where_to_follow_it(declared: Controlled) -> None:
    answer = send(declared, _write(), params={"wait": 1})
    assert answer.status_code == 202
    assert answer.json()["training"]["state"] == "queued"
    assert answer.headers["location"].startswith("/trainings/")


def test_waited_training_that_fails_is_no_success(declared: Controlled) -> None:
    ending = end_soon(declared, "too few rows.")
    answer = send(declared, _write(), params={"wait": 30})
    ending.join(_ENDS_S)
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"] == "/problems/training-without-version"
    assert "has failed: too few rows. The rows of the file are stored" in problem["detail"]
    assert problem["location"] == answer.headers.get("location", problem["location"])
    assert count_rows(declared) == 6


def test_wait_is_bounded(declared: Controlled) -> None:
    for wait in (-1, LONGEST_WAIT_S + 1, "soon"):
        assert send(declared, _write(), params={"wait": wait}).status_code == 422


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ('wait="5"', 5),
        ("return=minimal; x=1, WAIT = 7", 7),
        ("wait=99999", LONGEST_WAIT_S),
        ("wait=0", 0),
        ("wait", None),
        ("wait=-5", None),
        ("wait=5s", None),
        ("await=5", None),
        ("", None),
        (None, None),
    ],
)
def test_preference_is_read_as_the_standard_has_it(prefer: str | None, seconds: int | None) -> None:
    assert _find_preferred_wait(prefer) == seconds


def test_others_are_answered_while_many_wait(declared: Controlled) -> None:
    training_id = uuid.UUID(send(declared, _write()).json()["training"]["id"])
    with ThreadPoolExecutor(70) as pool:
        waiting = [pool.submit(send, declared, _write(), params={"wait": 60}) for _ in range(70)]
        # Those beyond the most that may wait are answered at once.
        deadline = time.monotonic() + _ENDS_S
        while sum(answer.done() for answer in waiting) < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sum(answer.done() for answer in waiting) == 6
        for _ in range(20):
            assert declared.client.get(f"/trainings/{training_id}").status_code == 200
        end_training(declared, training_id)
        answers = [answer.result(_ENDS_S) for answer in waiting]
    assert sorted(answer.status_code for answer in answers) == [200] * 64 + [202] * 6


def test_those_who_wait_wait_on_while_the_database_is_away(declared: Controlled) -> None:
    engine = declared.connections.engine
    training_id = uuid.UUID(send(declared, _write()).json()["training"]["id"])

    async def wait() -> None:
        ends = TrainingEnds(engine)
        waiting = asyncio.create_task(ends.wait(training_id, _ENDS_S))
        await asyncio.sleep(0.2)
        with engine.connect() as connection:
            cut = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            connection.execute(text(cut))
        await asyncio.to_thread(end_training, declared, training_id)
        assert await waiting
        await ends.close()

    asyncio.run(wait())
    with engine.connect() as connection:
        assert get_training(connection, training_id).state == "finished"
