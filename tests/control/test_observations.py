"""Files over HTTP: stored as a whole, or refused as a whole with every fault named."""

import socket
from collections.abc import Iterator
from datetime import date, timedelta
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import text

from ingestion.store import build_table_name, has_table
from tests.control.running import Controlled

_FIRST = date(2024, 1, 1)
_ROWS = "".join(f"{_FIRST + timedelta(days=day)},{101 + day}\n" for day in range(40))
_FILE = f"Date,Close\n{_ROWS}".encode()
_PATH = "/models/prices/observations"


def _count(controlled: Controlled) -> int:
    with controlled.connections.engine.connect() as connection:
        if not has_table(connection, "prices"):
            return 0
        return int(connection.scalar(text(f"SELECT count(*) FROM {build_table_name('prices')}")) or 0)  # noqa: S608


def test_file_is_imported_and_the_same_file_again_changes_nothing(controlled: Controlled) -> None:
    first = controlled.client.post(_PATH, files={"file": ("btc.csv", _FILE, "text/csv")})
    assert first.status_code == 201, first.text
    assert (first.json()["rows_new"], first.json()["rows_unchanged"]) == (40, 0)
    again = controlled.client.post(_PATH, files={"file": ("btc.csv", _FILE, "text/csv")})
    assert again.status_code == 201
    assert (again.json()["rows_new"], again.json()["rows_unchanged"]) == (0, 40)
    assert _count(controlled) == 40


def test_source_is_recorded_with_its_actor_and_a_plain_name(controlled: Controlled) -> None:
    controlled.client.post(_PATH, files={"file": ("..\\..\\a/b<script>\x01.csv", _FILE)})
    with controlled.connections.engine.connect() as connection:
        row = connection.execute(text("SELECT name, actor, kind, state, bytes FROM sources")).one()
    assert tuple(row) == ("b_script__01.csv", "local", "rest", "imported", len(_FILE))


def test_bad_rows_refuse_the_file_and_are_named(controlled: Controlled) -> None:
    content = _FILE.replace(b"2024-01-03,103", b"2024-01-03,abc").replace(b"2024-01-05,105", b"2024-01-05,-4")
    response = controlled.client.post(_PATH, files={"file": ("bad.csv", content)})
    assert response.status_code == 422
    document = response.json()
    assert document["type"] == "/problems/rows-rejected"
    assert document["total"] == 2
    assert [fault["where"] for fault in document["errors"]] == ["line 4, column Close", "line 6, column Close"]
    assert "abc" in document["errors"][0]["value"]
    assert _count(controlled) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"Date,Close\n",
        b"Time of day,Price\n1,2\n",
        b"Date,Close\n2024-01-01,1\n2024-01-01,2\n",
        b"Date,Close\n2024-01-01,nan\n",
        b"Date,Close\n2024-01-01,inf\n",
        b"Date,Close\n2024-01-01,1,2,3\n",
        b'Date,Close\n"2024-01-01,1\n',
        b"Date,Close\n2024-01-01,\x00\n",
        "Date,Close\n2024-01-01,1\u20ac\n".encode("utf-16"),
        b"\xff\xfe\xfd",
        b"PK\x03\x04rest of an archive",
        b"{}",
    ],
)
def test_file_that_is_not_rows_is_a_problem(controlled: Controlled, content: bytes) -> None:
    response = controlled.client.post(_PATH, files={"file": ("bad.csv", content)})
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"]
    assert "Traceback" not in response.text


def test_request_without_a_file_is_refused(steady: Controlled) -> None:
    for sent in (
        steady.client.post(_PATH),
        steady.client.post(_PATH, files={"other": ("x.csv", _FILE)}),
        steady.client.post(_PATH, data={"file": "text"}),
        steady.client.post(_PATH, json={"file": "x"}),
    ):
        assert sent.status_code == 422
        assert sent.headers["content-type"] == "application/problem+json"


def test_malformed_multipart_is_refused(steady: Controlled) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        sent = steady.client.post(_PATH, content=b"--y\r\nnothing", headers={"Content-Type": content_type})
        assert sent.status_code in (400, 422)
        assert sent.headers["content-type"] == "application/problem+json"
        assert "Traceback" not in sent.text


def test_upload_over_the_limit_is_refused(steady: Controlled) -> None:
    response = steady.client.post(_PATH, files={"file": ("big.csv", b"x" * 100_001)})
    assert response.status_code == 413
    assert response.json()["type"] == "/problems/body-too-large"
    assert response.json()["max_bytes"] == 100_000


def test_declared_length_over_the_limit_is_refused_before_the_body_is_sent(steady: Controlled) -> None:
    parts = urlsplit(steady.address)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(
            f"POST {_PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            "Content-Length: 999999999\r\n\r\n".encode()
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_endless_upload_in_pieces_is_cut_off(steady: Controlled) -> None:
    sent = 0

    def generate() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        for _ in range(2000):
            sent += 65536
            yield b"1" * 65536

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        response = steady.client.post(_PATH, content=generate(), headers=headers)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        # The server closed the connection while we were still sending.
        response = None
    assert response is None or response.status_code == 413
    assert sent < 100_000_000


def test_document_over_the_limit_is_refused_however_it_comes(steady: Controlled) -> None:
    body = b'{"parameters": {"' + b"a" * 2**20 + b'": 1}}'
    headers = {"Content-Type": "application/json"}
    declared = steady.client.post("/models/prices/trainings", content=body, headers=headers)
    pieces = steady.client.post("/models/prices/trainings", content=iter([body[:1000], body[1000:]]), headers=headers)
    assert (declared.status_code, pieces.status_code) == (413, 413)
    assert pieces.json()["type"] == "/problems/body-too-large"
