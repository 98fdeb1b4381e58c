"""Ids of predictions: UUIDs of version 4, of which some are always drawn ahead.

A request then waits for no read of the system's random numbers, and many made at once take a fraction of what each
takes that is made between other work.
"""

import os
from collections import deque
from uuid import UUID

_ID_BYTES = 16
_DRAWN_AHEAD = 64

_drawn: deque[UUID] = deque()
# Two processes must not hand out the same.
os.register_at_fork(after_in_child=_drawn.clear)


def draw_ids(count: int) -> list[UUID]:
    """That many ids that nobody else has. Any thread may ask."""
    return [_take_id()] if count == 1 else _make_ids(count)


def _take_id() -> UUID:
    while True:
        try:
            return _drawn.popleft()
        except IndexError:
            _drawn.extend(_make_ids(_DRAWN_AHEAD))


def _make_ids(count: int) -> list[UUID]:
    drawn = os.urandom(_ID_BYTES * count)
    return [UUID(bytes=drawn[start : start + _ID_BYTES], version=4) for start in range(0, len(drawn), _ID_BYTES)]
