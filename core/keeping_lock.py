"""The lock by which backups and clean-ups exclude each other: the one copies what the other removes."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from core.database import build_libpq_url
from core.keeping_errors import KeepingUnderWay

_KEY = 7243002


@contextmanager
def hold_keeping_lock(url: str) -> Iterator[None]:
    """Hold the lock of the platform's database at `url` for the block; raises KeepingUnderWay where another does."""
    with psycopg.connect(build_libpq_url(url), autocommit=True, connect_timeout=5) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", [_KEY]).fetchone()
        if row is None or not row[0]:
            raise KeepingUnderWay
        try:
            yield
        finally:
            # The server notices a closed connection a moment later.
            connection.execute("SELECT pg_advisory_unlock(%s)", [_KEY])
