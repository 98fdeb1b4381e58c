"""How many predictions a process takes on at once, the threads that compute long ones, and how long one may take."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from core.serving_errors import Overloaded
from serving.metrics import Metrics

_THREADS = 8
Answer = TypeVar("Answer")


class Admission:
    """A bound on the predictions of this process that are read or computed; used as a context around each.

    What is beyond it is refused at once, which the caller can repeat elsewhere or later, rather than kept waiting.
    """

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most = most
        self._gauge = metrics.in_progress
        self._taken = 0
        # Apart from the framework's own, so that slow models leave health and the other routes their threads.
        self._threads = ThreadPoolExecutor(_THREADS, "predict")

    def __enter__(self) -> Self:
        """Take a place; raises Overloaded."""
        if self._taken >= self._most:
            raise Overloaded(self._most)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    async def compute(self, function: Callable[[], Answer]) -> Answer:
        """Run the function in a thread. Where the caller gives up before it has begun, it never runs.

        Where the caller gives up later, the thread computes on, and its place stays taken until it has finished.
        """
        loop = asyncio.get_running_loop()
        computed = self._threads.submit(function)
        try:
            return await asyncio.wrap_future(computed)
        except asyncio.CancelledError:
            if not computed.cancelled():
                self._take()
                computed.add_done_callback(lambda _: loop.call_soon_threadsafe(self._give_back))
            raise

    def close(self) -> None:
        """End the threads; what they compute is finished first."""
        self._threads.shutdown()

    def _take(self) -> None:
        self._taken += 1
        self._gauge.inc()

    def _give_back(self) -> None:
        self._taken -= 1
        self._gauge.dec()
