"""A process in the tracking server's place that answers everything and remembers what reached it."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from tests.conftest import find_free_port


@dataclass
class Reached:
    """One request as it came through."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """What came through the door, in order; each is answered after `wait_s`."""

    address: str
    wait_s: float = 0.0
    reached: list[Reached] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        self.reached.append(Reached(request.method, scope["path"], dict(request.headers), await request.body()))
        await asyncio.sleep(self.wait_s)
        await JSONResponse({})(scope, receive, send)


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    """The process, for the length of the block."""
    port = find_free_port()
    upstream = Upstream(f"http://127.0.0.1:{port}")
    server = uvicorn.Server(uvicorn.Config(upstream, port=port, lifespan="off", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            if time.monotonic() > deadline:
                raise TimeoutError("the process in the tracking server's place did not start")
            time.sleep(0.02)
        yield upstream
    finally:
        server.should_exit = True
        thread.join(30)
