"""Hears what the database notifies, on one connection, and wakes who waits for it."""

import threading
from collections.abc import Callable, Mapping

import psycopg

from core.database import listening
from serving.outages import Outage

_WAIT_S = 0.5


class NotificationListener:
    """Calls `wakes[channel]` at every notification, and each of them after a time in which nobody could listen.

    Without notifications transitions are found all the same, by the look that the follower makes each second.
    """

    def __init__(self, database_url: str, wakes: Mapping[str, Callable[[], None]], retry_s: float) -> None:
        self._database_url = database_url
        self._wakes = wakes
        self._retry_s = retry_s
        self._outage = Outage("the database's notifications", "Transitions are seen by looking each second")

    @property
    def reason(self) -> str | None:
        """Why nothing is heard, or None while it is."""
        return self._outage.reason

    def run(self, stopping: threading.Event) -> None:
        """Listen until `stopping` is set."""
        while not stopping.is_set():
            try:
                with listening(self._database_url, *self._wakes) as connection:
                    self._outage.end()
                    for wake in self._wakes.values():
                        wake()
                    self._hear(connection, stopping)
            except psycopg.OperationalError as error:
                self._outage.begin(error)
                stopping.wait(self._retry_s)

    def _hear(self, connection: psycopg.Connection[tuple[object, ...]], stopping: threading.Event) -> None:
        while not stopping.is_set():
            for notification in connection.notifies(timeout=_WAIT_S, stop_after=1):
                self._wakes[notification.channel]()
