"""A job as a stream of server-sent events.

Between two looks at the database a stream holds no connection and no thread; what a client has not read stays in the
buffers of its own connection, and the stream waits.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress

import orjson
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from control.outages import DATABASE_ERRORS
from core.connections import Connections
from core.job_errors import TooManyFollowers
from core.job_lines import JobLine, load_lines_after
from core.jobs import Job, get_job

logger = logging.getLogger(__name__)

LOOK_S = 0.5
HEARTBEAT_S = 15.0
LONGEST_S = 3600.0
"""After this a stream ends, and its client comes back."""
UNREAD_S = 30.0
"""How long a stream may then still wait for its client to read."""
MOST_FOLLOWERS = 100
"""Half of the connections that serving forwards over."""
_LINES_A_LOOK = 200
_RETRY_MS = 2000


class Followers:
    """How many streams there are, and whether the server stops."""

    def __init__(self) -> None:
        self.count = 0
        self.is_stopping = False

    def check(self) -> None:
        """Raise TooManyFollowers where there is no room for one more."""
        if self.count >= MOST_FOLLOWERS:
            raise TooManyFollowers(MOST_FOLLOWERS)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count one more for the length of the block."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class EventStream(StreamingResponse):
    """An answer that ends in time also where its client reads nothing, and is counted as long as it lasts."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], followers: Followers) -> None:
        # The second header keeps proxies from holding events back.
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._followers = followers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # When the time is over the events have ended, unless they wait for their reader: the connection is closed.
        with self._followers.counting(), suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_S + UNREAD_S):
                await super().__call__(scope, receive, send)


async def stream_events(
    connections: Connections, followers: Followers, job_id: uuid.UUID, last_number: int
) -> EventStream:
    """The stream of the job's events after line `last_number`; raises JobNotFound, TooManyFollowers."""
    job = await asyncio.to_thread(_load_job, connections, job_id)
    followers.check()
    return EventStream(_follow(connections, followers, job, last_number), followers)


async def _follow(connections: Connections, followers: Followers, job: Job, number: int) -> AsyncIterator[bytes]:
    ends_s = time.monotonic() + LONGEST_S
    yield format_sse_event(retry=_RETRY_MS)
    yield _format("state", number, job)
    spoke_s = time.monotonic()
    while not followers.is_stopping and time.monotonic() < ends_s:
        present, lines = await asyncio.to_thread(_look, connections, job, number)
        for line in lines:
            number = line.number
            yield _format("line", number, line)
        if present != job:
            yield _format("state", number, present)
        if not present.is_open and not lines:
            yield _format("end", number, {"state": present.state})
            return
        if lines or present != job:
            spoke_s = time.monotonic()
        elif time.monotonic() - spoke_s >= HEARTBEAT_S:
            yield format_sse_event(comment="still here")
            spoke_s = time.monotonic()
        job = present
        if len(lines) < _LINES_A_LOOK:
            await asyncio.sleep(LOOK_S)


def _load_job(connections: Connections, job_id: uuid.UUID) -> Job:
    with connections.engine.connect() as connection:
        return get_job(connection, job_id)


def _look(connections: Connections, job: Job, number: int) -> tuple[Job, Sequence[JobLine]]:
    """The job as it is now and the lines after that number; without the database nothing is new."""
    try:
        with connections.engine.connect() as connection:
            # The job first: its last lines are there before it has ended, so none comes after `end`.
            return get_job(connection, job.id), load_lines_after(connection, job.id, number, _LINES_A_LOOK)
    except DATABASE_ERRORS as error:
        logger.warning("the database does not say how job %s goes on: %s", job.id, error)
        return job, []


def _format(event: str, number: int, data: object) -> bytes:
    return format_sse_event(event=event, id=str(number), data_str=orjson.dumps(data).decode())
