"""Forwarding between two real servers."""

import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from tests.web.running import running
from web.forwarding import Forwarder
from web.problems import install_problem_details

MEGABYTE = 2**20


def build_upstream() -> FastAPI:
    app = FastAPI()

    @app.api_route("/echo/{rest:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def echo(request: Request) -> Response:
        return JSONResponse(
            {
                "method": request.method,
                "path": request.scope["raw_path"].decode(),
                "query": request.url.query,
                "headers": dict(request.headers),
                "body": (await request.body()).decode(),
            },
            headers={"X-Own": "1", "X-Request-ID": "upstream's", "Connection": "X-Hop", "X-Hop": "dropped"},
        )

    @app.post("/digest")
    async def digest(request: Request) -> str:
        found = hashlib.sha256()
        async for piece in request.stream():
            found.update(piece)
        return found.hexdigest()

    @app.get("/stream")
    async def stream() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b"x" * MEGABYTE

        return StreamingResponse(pieces())

    @app.get("/away")
    async def away() -> Response:
        return RedirectResponse("http://elsewhere.invalid/")

    return app


def build_front(address: str, prefix: str = "") -> FastAPI:
    forwarder = Forwarder("control", address, prefix, lambda path: MEGABYTE if path == "/limited" else None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await forwarder.close()

    app = FastAPI(redirect_slashes=False, lifespan=lifespan)
    install_problem_details(app)
    app.router.default = forwarder
    return app


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        upstream = stack.enter_context(running(build_upstream()))
        front = stack.enter_context(running(build_front(upstream)))
        yield stack.enter_context(httpx.Client(base_url=front))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_request_arrives_as_it_was_sent(client: httpx.Client, method: str) -> None:
    body = "päyload" if method in ("POST", "PUT") else ""
    response = client.request(
        method, "/echo/a%2Fb/c?x=1&y=%20", content=body.encode() or None, headers={"X-Request-ID": "r-9", "X-Mine": "2"}
    )
    seen = response.json()
    assert (seen["method"], seen["path"], seen["query"], seen["body"]) == (method, "/echo/a%2Fb/c", "x=1&y=%20", body)
    assert seen["headers"]["x-mine"] == "2"
    assert seen["headers"]["x-request-id"] == "r-9"
    assert response.headers["X-Own"] == "1"
    assert response.headers.get_list("X-Request-ID") == ["r-9"]


def test_hop_by_hop_headers_are_dropped(client: httpx.Client) -> None:
    headers = {"Connection": "keep-alive, X-Secret", "X-Secret": "s", "TE": "trailers", "Proxy-Authorization": "p"}
    response = client.get("/echo/x", headers=headers)
    seen = response.json()["headers"]
    assert not {"x-secret", "te", "proxy-authorization"} & seen.keys()
    assert seen["x-forwarded-host"] == client.base_url.netloc.decode()
    assert "x-hop" not in response.headers


def test_large_bodies_stream_both_ways(client: httpx.Client) -> None:
    found = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for number in range(32):
            piece = bytes([number]) * MEGABYTE
            found.update(piece)
            yield piece

    assert client.post("/digest", content=pieces()).json() == found.hexdigest()
    with client.stream("GET", "/stream") as response:
        assert sum(len(piece) for piece in response.iter_bytes()) == 64 * MEGABYTE


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "in pieces"])
def test_two_gigabytes_are_refused_at_the_limit(client: httpx.Client, is_declared: bool) -> None:
    sent, answer = 0, b""
    framing = "Content-Length: 2147483648" if is_declared else "Transfer-Encoding: chunked"
    piece = b"x" * MEGABYTE if is_declared else b"100000\r\n" + b"x" * MEGABYTE + b"\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60) as connection:
        connection.sendall(f"POST /limited HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        if is_declared:
            answer = connection.recv(65536)
        with contextlib.suppress(ConnectionError):
            while sent < 2**31:
                sent += connection.send(piece)
        with contextlib.suppress(ConnectionError):
            answer += connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ") or (answer == b"" and not is_declared)
    assert sent < 64 * MEGABYTE


def test_redirect_is_answered_and_not_followed(client: httpx.Client) -> None:
    response = client.get("/away")
    assert (response.status_code, response.headers["Location"]) == (307, "http://elsewhere.invalid/")


def test_prefix_is_taken_off() -> None:
    with running(build_upstream()) as upstream, running(build_front(upstream, "/mlflow")) as front:
        assert httpx.get(f"{front}/mlflow/echo/x").json()["path"] == "/echo/x"


def test_upstream_that_is_away_is_a_problem() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with running(build_front(f"http://127.0.0.1:{taken.getsockname()[1]}")) as front:
            response = httpx.get(f"{front}/anything")
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/upstream-unavailable"
