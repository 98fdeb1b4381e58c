"""What the requests of one turn of the event loop answer is sent together, at the beginning of the next.

Sending wakes whoever waits for the answer, and where that one sleeps on another core the wake takes longer than the
sending. Answers that leave one right after the other find it awake, and the head and the body of each are sent at once.
Where one request alone is in progress there is nothing to wait for: its head leaves while its body is still to come.
"""

import asyncio
from collections.abc import Set
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HELD_BYTES = 64 * 1024


class TurnProtocol(HttpToolsProtocol):
    """uvicorn's protocol, over a transport that holds what is written until the next turn."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Begin to serve a connection."""
        self._turns = TurnTransport(transport, self.loop, self.tasks)
        super().connection_made(self._turns)

    def eof_received(self) -> None:
        """Send what is held: the client sends nothing more, which lets the event loop close the connection."""
        self._turns.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        self._turns.is_lost = True
        super().connection_lost(exc)


class TurnTransport(asyncio.Transport):
    """The part of a transport that uvicorn uses. `in_progress` holds one task for each request."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, in_progress: Set[asyncio.Task[None]]
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._in_progress = in_progress
        self._held: list[bytes | bytearray | memoryview] = []
        self._held_bytes = 0
        self.is_lost = False

    def write(self, data: Any) -> None:
        """Send `data` at the next turn, or at once where much is held: the pace of the client must be felt."""
        if not self._held:
            # What is held on a connection that closes could come too late for it.
            if len(self._in_progress) == 1 or self.is_closing():
                self._transport.write(data)
                return
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _MOST_HELD_BYTES:
            self.flush()

    def close(self) -> None:
        """Send what is held, and close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is being closed, by either side."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport knows of its socket."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read nothing more for the moment."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def flush(self) -> None:
        """Send what is held."""
        held, self._held, self._held_bytes = self._held, [], 0
        # Not asked of the transport: one that is closing still sends.
        if held and not self.is_lost:
            self._transport.write(b"".join(held))
