"""What one turn of the event loop answers leaves together, whole and in order."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from serving.turns import TurnProtocol, TurnTransport
from tests.serving.running import find_free_port, wait_until


class Recorder(asyncio.Transport):
    """A transport that records the pieces that are sent, all of all recorders in `sent`."""

    def __init__(self, sent: list[bytes]) -> None:
        super().__init__()
        self.sent = sent
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def in_one_turn(
    *writes: Callable[[list[Recorder], list[TurnTransport]], None], requests: int = 2
) -> tuple[list[bytes], list[bytes]]:
    """Run each write in a callback of the same turn, over two connections, while so many requests are in progress; what
    was sent by its end, and after it.
    """
    sent: list[bytes] = []

    async def run() -> list[bytes]:
        loop = asyncio.get_running_loop()
        recorders = [Recorder(sent), Recorder(sent)]
        in_progress = {asyncio.create_task(asyncio.sleep(0)) for _ in range(requests)}
        transports = [TurnTransport(recorder, loop, in_progress) for recorder in recorders]
        within: list[bytes] = []
        for write in writes:
            loop.call_soon(write, recorders, transports)
        loop.call_soon(lambda: within.extend(sent))
        for _ in range(3):
            await asyncio.sleep(0)
        return within

    return asyncio.run(run()), sent


def test_answers_of_one_turn_are_sent_after_it_each_in_one_piece() -> None:
    def answer(number: int) -> Callable[[list[Recorder], list[TurnTransport]], None]:
        def write(_: list[Recorder], transports: list[TurnTransport]) -> None:
            transports[number].write(b"head %d " % number)
            transports[number].write(b"body %d" % number)

        return write

    within, sent = in_one_turn(answer(0), answer(1))
    assert within == []
    assert sent == [b"head 0 body 0", b"head 1 body 1"]


def test_answer_of_the_only_request_is_sent_as_it_is_written() -> None:
    def write(_: list[Recorder], transports: list[TurnTransport]) -> None:
        transports[0].write(b"head")
        transports[0].write(b"body")

    within, sent = in_one_turn(write, requests=1)
    assert within == sent == [b"head", b"body"]


def test_what_is_written_after_something_that_is_held_follows_it() -> None:
    in_progress: set[asyncio.Task[None]] = set()
    sent: list[bytes] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        transport = TurnTransport(Recorder(sent), loop, in_progress)
        in_progress.update(asyncio.create_task(asyncio.sleep(0)) for _ in range(2))
        transport.write(b"head ")
        in_progress.pop()
        transport.write(b"body")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert sent == [b"head body"]


def test_what_is_long_is_not_held() -> None:
    piece = b"x" * 30_000

    def write(_: list[Recorder], transports: list[TurnTransport]) -> None:
        for part in (piece,) * 4:
            transports[0].write(part)

    within, sent = in_one_turn(write)
    assert within == [piece * 3]
    assert sent == [piece * 3, piece]


def test_what_is_held_is_sent_before_the_connection_is_closed() -> None:
    def write(recorders: list[Recorder], transports: list[TurnTransport]) -> None:
        transports[0].write(b"last words")
        transports[0].close()
        assert recorders[0].is_closed

    within, sent = in_one_turn(write)
    assert within == sent == [b"last words"]


def test_what_is_written_to_a_connection_that_closes_is_not_held() -> None:
    def write(recorders: list[Recorder], transports: list[TurnTransport]) -> None:
        recorders[0].is_closed = True
        transports[0].write(b"the rest")

    within, sent = in_one_turn(write)
    assert within == sent == [b"the rest"]


def test_connection_that_is_lost_within_the_turn_leaves_the_others_their_answers() -> None:
    def write(_: list[Recorder], transports: list[TurnTransport]) -> None:
        transports[0].write(b"to nobody")
        transports[0].is_lost = True
        transports[1].write(b"to somebody")

    _, sent = in_one_turn(write)
    assert sent == [b"to somebody"]


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, in pieces of a kilobyte."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, len(body), 1024):
        await send({"type": "http.response.body", "body": body[start : start + 1024], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def running() -> Iterator[int]:
    """The echo under the protocol; its port."""
    port = find_free_port()
    config = uvicorn.Config(_echo, port=port, http=TurnProtocol, loop="uvloop", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join()


def _read_answer(connection: socket.socket, size: int) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < size:
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    return received.partition(b"\r\n\r\n")[2]


def test_long_answers_arrive_whole_while_other_clients_break_off() -> None:
    body = bytes(range(256)) * 4096
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with running() as port:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as broken:
                broken.sendall(head + body[: len(body) // 2])
            with socket.create_connection(("127.0.0.1", port)) as broken:
                broken.sendall(head + body)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            for _ in range(3):
                connection.sendall(head + body)
                assert _read_answer(connection, len(body)) == body


def test_requests_sent_one_after_the_other_are_answered_in_order() -> None:
    requests = b"".join(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(9))
    with running() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(requests)
        received = b""
        while received.count(b"HTTP/1.1 200") < 9 or not received.endswith(b"8"):
            received += connection.recv(65536)
    assert [answer[-1:] for answer in received.split(b"HTTP/1.1")[1:]] == [b"%d" % number for number in range(9)]


def test_client_that_says_it_sends_no_more_gets_its_answer_while_others_are_in_progress() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    with running() as port, socket.create_connection(("127.0.0.1", port)) as unfinished:
        unfinished.sendall(head + b"ha")
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(head + b"done")
                connection.shutdown(socket.SHUT_WR)
                assert _read_answer(connection, 4) == b"done"
