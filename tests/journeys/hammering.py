"""Requests without a pause, while something else happens to the platform."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.accounts import HEADERS
from tests.journeys.running import MODEL, Platform

_PAUSE_S = 0.005


@dataclass
class Hammer:
    """What came back so far: versions in order with the time each first answered, ids, and whatever failed."""

    first_answers: list[tuple[int, float]] = field(default_factory=list)
    prediction_ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def find_time(self, version: int) -> float | None:
        """The clock's time when the version answered for the first time."""
        return next((at for answered, at in self.first_answers if answered == version), None)


@contextmanager
def hammering(platform: Platform, window: Sequence[float]) -> Iterator[Hammer]:
    """Ask for predictions one after another in a thread for the length of the block."""
    hammer = Hammer()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=platform.address, headers=HEADERS, timeout=30) as client:
            while not stop.wait(_PAUSE_S):
                try:
                    response = client.post(f"/models/{MODEL}/predict", json={"values": list(window)})
                except httpx.TransportError as error:
                    hammer.failures.append(repr(error))
                    continue
                if not response.is_success:
                    hammer.failures.append(response.text)
                    continue
                answer = response.json()
                hammer.prediction_ids += answer["prediction_ids"]
                if not hammer.first_answers or hammer.first_answers[-1][0] != answer["version"]:
                    hammer.first_answers.append((answer["version"], time.monotonic()))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield hammer
    finally:
        stop.set()
        thread.join()
