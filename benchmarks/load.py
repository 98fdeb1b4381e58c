"""Load over HTTP: wrk where it is installed, else a client of asyncio streams; and a steady one that keeps a record.

wrk is the better generator: it takes a tenth of the machine that the other does, which on two cores is the server's.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

TOKEN_VARIABLE = "MILLRACE_TOKEN"  # noqa: S105  # the variable's name
"""Environment variable that a benchmark keeps its platform's token in."""

GENERATOR = "wrk" if shutil.which("wrk") else "asyncio"

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "%s"
wrk.body = [==[%s]==]
done = function(summary, latency, requests)
  local errors = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format("RESULT %%f %%f %%f %%d\\n", latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.requests / (summary.duration / 1e6), errors))
end
"""


@dataclass(frozen=True)
class Measured:
    """What one load saw; `failed` counts answers above 399 and broken connections."""

    p50_ms: float
    p99_ms: float
    req_per_s: float
    failed: int


@dataclass(frozen=True)
class Answered:
    """One answer: when it came, how long it took, its status (0 for a broken connection) and the version it named."""

    at_s: float
    took_ms: float
    status: int
    version: str


def measure(url: str, body: bytes, *, connections: int, seconds: float) -> Measured:
    """Send `body` by POST over that many connections, each with one request at a time."""
    if GENERATOR == "wrk":
        return _run_wrk(url, body, connections, seconds)
    answers = asyncio.run(send_steadily(url, body, connections=connections, seconds=seconds))
    took = [answer.took_ms for answer in answers]
    failed = sum(answer.status != 200 for answer in answers)
    return Measured(float(np.percentile(took, 50)), float(np.percentile(took, 99)), len(took) / seconds, failed)


def _run_wrk(url: str, body: bytes, connections: int, seconds: float) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "load.lua"
        script.write_text(_SCRIPT % (_build_authorization(), body.decode()))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", str(script), url]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk said {done.stdout!r} {done.stderr!r}")
    return Measured(float(found[1]), float(found[2]), float(found[3]), int(found[4]))


def _build_authorization() -> str:
    """The platform's token; peers are sent it too, and ask for none."""
    return f"Bearer {os.environ[TOKEN_VARIABLE]}"


async def send_steadily(
    url: str,
    body: bytes,
    *,
    connections: int,
    seconds: float,
    pause_s: float = 0.0,
    stop: asyncio.Event | None = None,
) -> list[Answered]:
    """Send `body` again and again over kept connections, `pause_s` after each answer; until `stop`, if it is given."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: {_build_authorization()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    message = head.encode() + body
    deadline_s = time.monotonic() + seconds
    answers: list[Answered] = []

    async def run() -> None:
        opened: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while time.monotonic() < deadline_s and not (stop and stop.is_set()):
            started_s = time.monotonic()
            status, version = 0, ""
            try:
                if opened is None:
                    opened = await asyncio.open_connection(parts.hostname, parts.port)
                reader, writer = opened
                writer.write(message)
                answer_head = await reader.readuntil(b"\r\n\r\n")
                status = int(answer_head[9:12])
                headers = dict(line.split(b": ", 1) for line in answer_head.lower().split(b"\r\n")[1:] if line)
                await reader.readexactly(int(headers.get(b"content-length", 0)))
                version = headers.get(b"x-model-version", b"").decode()
            except (OSError, asyncio.IncompleteReadError):
                opened = None
            now_s = time.monotonic()
            answers.append(Answered(now_s, (now_s - started_s) * 1000, status, version))
            if pause_s:
                await asyncio.sleep(pause_s)

    await asyncio.gather(*(run() for _ in range(connections)))
    return answers


def build_body(rows: np.ndarray) -> bytes:
    """Rows `(steps, features)` as our own route takes them: a list of the steps' values."""
    return json.dumps({"values": rows.tolist()}).encode()
