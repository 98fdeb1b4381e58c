"""Waiting for the end of a training: one look at the database a second, for all requests that wait."""

import asyncio
import logging
import uuid
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from core.trainings import load_open_ids

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 300
MOST_WAITING = 64
"""Requests that wait at once; each holds a connection of the service's way to here, which has some hundred of them."""
_LOOK_S = 1.0


@dataclass
class _End:
    """The end of one training, and how many requests wait for it."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0


class TrainingEnds:
    """Tells requests that their training has ended. It holds neither a thread nor a connection for those that wait."""

    def __init__(self, engine: Engine, *, most_waiting: int = MOST_WAITING) -> None:
        self._engine = engine
        self._most_waiting = most_waiting
        self._ends: dict[uuid.UUID, _End] = {}
        self._looking: asyncio.Task[None] | None = None

    async def wait(self, training_id: uuid.UUID, timeout_s: float) -> bool:
        """Return when the training has ended or the time is over; false at once where too many wait already."""
        if sum(end.waiting for end in self._ends.values()) >= self._most_waiting:
            return False
        end = self._ends.setdefault(training_id, _End())
        end.waiting += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(timeout_s):
                await end.event.wait()
        except TimeoutError:
            logger.debug("training %s has not ended within %g s", training_id, timeout_s)
        finally:
            end.waiting -= 1
            if not end.waiting:
                self._ends.pop(training_id, None)
        return True

    async def close(self) -> None:
        """Let nobody wait any longer."""
        for end in self._ends.values():
            end.event.set()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._ends:
            # One that is waited for from now on is looked at the next time.
            looked_at = list(self._ends)
            try:
                still_open = await run_in_threadpool(self._load_open, looked_at)
            except DBAPIError as error:
                logger.warning("those who wait for a training wait on", extra={"reason": type(error).__name__})
            else:
                for training_id in looked_at:
                    if training_id not in still_open and training_id in self._ends:
                        self._ends[training_id].event.set()
            await asyncio.sleep(_LOOK_S)

    def _load_open(self, training_ids: list[uuid.UUID]) -> set[uuid.UUID]:
        with self._engine.connect() as connection:
            return load_open_ids(connection, training_ids)
