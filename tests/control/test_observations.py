"""Files over HTTP: stored as a whole, or refused as a whole with every fault named."""

import contextlib
import gc
import io
import itertools
import socket
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from urllib.parse import urlsplit

import httpx
import pandas as pd
import pytest
from sqlalchemy import text

from ingestion.store import build_table_name, has_table
from tests.accounts import ACTOR, HEADER_LINE
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


def test_workbook_and_parquet_are_imported_as_the_same_rows(controlled: Controlled) -> None:
    controlled.client.post(_PATH, files={"file": ("btc.csv", _FILE)})
    frame = pd.read_csv(io.BytesIO(_FILE), parse_dates=["Date"])
    workbook = io.BytesIO()
    with pd.ExcelWriter(workbook, engine="openpyxl") as writer:
        pd.DataFrame({"notes": []}).to_excel(writer, sheet_name="notes", index=False)
        frame.to_excel(writer, sheet_name="data", index=False)

    for content, fields in ((workbook.getvalue(), {"sheet": "data"}), (frame.to_parquet(index=False), {})):
        # Its name says nothing.
        answer = controlled.client.post(_PATH, files={"file": ("btc.csv", content)}, data=fields)
        assert answer.status_code == 201, answer.text
        assert (answer.json()["rows_new"], answer.json()["rows_unchanged"]) == (0, 40)


def test_encoding_is_a_field(controlled: Controlled) -> None:
    content = _FILE.replace(b"Close\n", b"Close,K\xf6ln\n", 1).replace(b"\n2", b",\n2")[:-1] + b",\n"
    content = content.replace(b"K\xf6ln,", b"K\xf6ln")

    unsaid = controlled.client.post(_PATH, files={"file": ("a.csv", content)})
    said = controlled.client.post(_PATH, files={"file": ("a.csv", content)}, data={"encoding": "latin-1"})
    unknown = controlled.client.post(_PATH, files={"file": ("a.csv", content)}, data={"encoding": "utf-7"})

    assert (unsaid.status_code, said.status_code, unknown.status_code) == (422, 201, 422), said.text
    assert "say encoding latin-1" in unsaid.json()["detail"]
    assert said.json()["ignored_columns"] == ["K\u00f6ln"]


def test_zip_bomb_in_the_form_of_a_workbook_is_refused(controlled: Controlled) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/worksheets/sheet1.xml", bytes(60 << 20))
    assert len(bomb.getvalue()) < 100_000

    answer = controlled.client.post(_PATH, files={"file": ("a.xlsx", bomb.getvalue())})

    assert answer.status_code == 422
    assert "times its packed size" in answer.json()["detail"]


def test_source_is_recorded_with_its_actor_and_a_plain_name(controlled: Controlled) -> None:
    controlled.client.post(_PATH, files={"file": ("..\\..\\a/b<script>\x01.csv", _FILE)})
    with controlled.connections.engine.connect() as connection:
        row = connection.execute(text("SELECT name, actor, kind, state, bytes FROM sources")).one()
    assert tuple(row) == ("b_script__01.csv", ACTOR, "rest", "imported", len(_FILE))


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


def _send(
    steady: Controlled, *, length: int | None, body: Iterable[bytes] = (), line: str = HEADER_LINE
) -> tuple[bytes, int]:
    """What the server answers before it closes the connection, and how many bytes of the body it took."""
    parts = urlsplit(steady.address)
    framing = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    head = (
        f"POST {_PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\n{line}Content-Type: multipart/form-data; boundary=x\r\n"
        f"{framing}\r\n\r\n"
    )
    answer, sent = b"", 0
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(head.encode())
        # The rest is refused while it is sent.
        with contextlib.suppress(ConnectionError):
            for piece in body:
                connection.sendall(piece if length is not None else b"%x\r\n%s\r\n" % (len(piece), piece))
                sent += len(piece)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                answer += piece
    return answer, sent


def _write_part(content: bytes = b"") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n' + content


def test_two_declared_gigabytes_are_refused_before_the_body_is_sent(steady: Controlled) -> None:
    answer, _ = _send(steady, length=2 << 30)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b"body-too-large" in answer


def test_two_gigabytes_in_pieces_are_refused_at_the_limit_and_the_connection_is_closed(steady: Controlled) -> None:
    pieces = itertools.chain([_write_part()], itertools.repeat(b"1" * 65536, (2 << 30) // 65536))

    answer, sent = _send(steady, length=None, body=pieces)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 64 << 20
    assert _count(steady) == 0


def test_nobody_is_told_so_before_two_gigabytes_were_sent(steady: Controlled) -> None:
    pieces = itertools.chain([_write_part()], itertools.repeat(b"1" * 65536, (2 << 30) // 65536))

    answer, sent = _send(steady, length=None, body=pieces, line="")

    assert answer == b"" or answer.startswith(b"HTTP/1.1 401 ")
    assert sent < 64 << 20


# The framework leaves the file of a form that breaks off to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_body_shorter_than_its_declared_length_stores_nothing(steady: Controlled) -> None:
    """The client ends before its body does: there is nobody to answer, and nothing of it is taken for a file."""
    parts = urlsplit(steady.address)
    head = (
        f"POST {_PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\n{HEADER_LINE}"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 50000\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(head.encode() + _write_part(_FILE) + b"\r\n--x--\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)

    assert b" 201 " not in answer
    assert _count(steady) == 0
    assert steady.client.get("/health/live").status_code == 200
    gc.collect()


def test_body_longer_than_its_declared_length_is_cut_at_it(steady: Controlled) -> None:
    """What goes on after the declared length is no part of the request, and not a request either."""
    answer, _ = _send(steady, length=20, body=[_write_part(_FILE) + b"\r\n--x--\r\n"])

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 422 "))
    assert b" 201 " not in answer
    assert _count(steady) == 0


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
