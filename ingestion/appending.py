"""Rows that come in the order of their time where nothing is stored yet: copied straight into the observations.

That is what most files of a series are, and it saves gathering them first. Whatever is not so (a time twice, a step
back, a stored row in between, a gap that is refused) raises OutOfOrder: the caller rolls back and takes the input
through `ingestion.staging`, which judges and words every case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import Connection

from core.contract import Contract
from core.database import create_partitions
from ingestion.copying import copy_rows
from ingestion.gaps import Gap, GapReport
from ingestion.store import POSTGRES_TYPES, SOURCE, build_table_name, get_partition_interval, get_raw_connection
from ingestion.validation import LINE

MOST_ENTITIES = 10_000
"""Series that an input may touch on this way: what is remembered of each must not fill the memory."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


class OutOfOrder(Exception):
    """The input is not one that may be copied straight in."""


@dataclass
class _Series:
    """What is known of one entity: its first and last time in microseconds, the last's line, its number of rows."""

    first_us: int
    last_us: int
    last_line: int
    rows: int


@dataclass(frozen=True)
class _Run:
    """The rows of one entity in one chunk, in order: times in microseconds `(rows,)` and lines `(rows,)`."""

    entity: str
    times_us: NDArray[np.int64]
    lines: NDArray[np.int64]


class Appending:
    """One input on its way into the observations of a contract whose key has a time."""

    def __init__(self, connection: Connection, contract: Contract, source_id: UUID) -> None:
        self._connection = connection
        self._raw = get_raw_connection(connection)
        self._contract = contract
        self._time = contract.key.time or ""
        self._table = build_table_name(contract.model)
        self._source = {SOURCE: source_id.bytes}
        self._step_us = round(contract.step_s * 1e6) if contract.step_s else None
        self._series: dict[str, _Series] = {}
        self.rows = 0
        self.gaps = GapReport()
        # A plan made while the table was empty would read all of it.
        self._raw.execute("SET LOCAL enable_seqscan TO off")

    def add(self, rows: pa.Table) -> None:
        """Copy typed rows in; raises OutOfOrder, after which all of the input has to be rolled back."""
        if rows.num_rows == 0:
            return
        runs = list(self._split(rows))
        for run in runs:
            series = self._series.get(run.entity)
            if (np.diff(run.times_us) <= 0).any() or (series is not None and run.times_us[0] <= series.last_us):
                raise OutOfOrder
        self._check_free(runs)
        if self._step_us is not None:
            self._judge_first_steps(runs)
        for run in runs:
            self._take(run)
        if len(self._series) > MOST_ENTITIES:
            raise OutOfOrder
        self._make_partitions(rows.column(self._time))
        copy_rows(self._raw, Identifier(self._table), rows, self._source)
        self.rows += rows.num_rows

    def close_input(self) -> None:
        """Judge the steps up to the stored rows that follow; raises OutOfOrder."""
        if self._step_us is None:
            return
        ends = [(name, series.last_us, series.last_us) for name, series in self._series.items()]
        for entity, found in self._ask("min({time}) FROM {stored} WHERE {same} AND {time} > given.up", ends):
            series = self._series[entity]
            self._judge_step(entity, series.last_us, _to_us(found), series.last_line, None)

    def count_longest(self, most: int) -> int:
        """Rows of the longest series that the input touches, stored and new together, counted up to `most`."""
        longest = max((series.rows for series in self._series.values()), default=0)
        if longest >= most:
            return most
        spans = [(name, series.first_us, series.last_us) for name, series in self._series.items()]
        # The rows just copied are among the stored ones.
        counts = self._ask("count(*) FROM (SELECT FROM {stored} WHERE {same} LIMIT {most}) AS counted", spans, most)
        return max((cast(int, count) for _, count in counts), default=0)

    def find_span(self) -> tuple[datetime, datetime]:
        """First and last time of the input, which has rows."""
        first_us = min(series.first_us for series in self._series.values())
        last_us = max(series.last_us for series in self._series.values())
        return _to_time(first_us), _to_time(last_us)

    def _split(self, rows: pa.Table) -> Iterator[_Run]:
        times_us = rows.column(self._time).cast(pa.int64()).to_numpy()
        lines = rows.column(LINE).to_numpy()
        if self._contract.key.entity is None:
            yield _Run("", times_us, lines)
            return
        entities = rows.column(self._contract.key.entity).combine_chunks().dictionary_encode()
        codes = entities.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(entities.dictionary) + 1))
        for code, entity in enumerate(pc.cast(entities.dictionary, pa.string()).to_pylist()):
            own = order[bounds[code] : bounds[code + 1]]
            yield _Run(entity, times_us[own], lines[own])

    def _check_free(self, runs: list[_Run]) -> None:
        """Nothing may be stored from where each series has come to up to the end of the chunk."""
        spans = []
        for run in runs:
            series = self._series.get(run.entity)
            after_us = series.last_us if series is not None else int(run.times_us[0]) - 1
            spans.append((run.entity, after_us, int(run.times_us[-1])))
        if self._ask("1 FROM {stored} WHERE {same} AND {time} > given.after AND {time} <= given.up", spans):
            raise OutOfOrder

    def _judge_first_steps(self, runs: list[_Run]) -> None:
        """The steps from the stored rows to the first ones of series that the input has not touched before."""
        new = {run.entity: run for run in runs if run.entity not in self._series}
        spans = [(run.entity, int(run.times_us[0]), int(run.times_us[0])) for run in new.values()]
        for entity, found in self._ask("max({time}) FROM {stored} WHERE {same} AND {time} < given.up", spans):
            run = new[entity]
            self._judge_step(entity, _to_us(found), int(run.times_us[0]), None, int(run.lines[0]))

    def _take(self, run: _Run) -> None:
        """Note what came of the series, and judge its steps."""
        series = self._series.get(run.entity)
        if self._step_us is not None:
            if series is not None:
                self._judge_step(run.entity, series.last_us, int(run.times_us[0]), series.last_line, int(run.lines[0]))
            for at in np.flatnonzero(np.diff(run.times_us) != self._step_us):
                before, after = (int(run.times_us[at + place]) for place in (0, 1))
                self._judge_step(run.entity, before, after, int(run.lines[at]), int(run.lines[at + 1]))
        self._series[run.entity] = _Series(
            first_us=series.first_us if series is not None else int(run.times_us[0]),
            last_us=int(run.times_us[-1]),
            last_line=int(run.lines[-1]),
            rows=len(run.times_us) + (series.rows if series is not None else 0),
        )

    def _judge_step(self, entity: str, before_us: int, at_us: int, before_line: int | None, line: int | None) -> None:
        if at_us - before_us == self._step_us:
            return
        if self._contract.gaps == "refuse":
            raise OutOfOrder
        self.gaps.add(Gap(entity, _to_time(before_us), _to_time(at_us), before_line, line))

    def _make_partitions(self, times: pa.ChunkedArray) -> None:
        interval = get_partition_interval(self._contract)
        for start in pc.unique(pc.floor_temporal(times, unit=interval)).to_pylist():
            create_partitions(self._connection, self._table, start, start, interval)

    def _ask(self, found: str, spans: list[tuple[str, int, int]], most: int = 1) -> list[tuple[str, object]]:
        """What a query finds for each entity with its times `given.after` and `given.up`; nothing found is left out."""
        if not spans:
            return []
        entity = self._contract.key.entity
        kind = POSTGRES_TYPES[self._contract.column(entity).dtype] if entity else "text"
        inner = SQL(found).format(
            time=Identifier(self._time),
            stored=Identifier(self._table),
            same=SQL("{} = given.entity").format(Identifier(entity)) if entity else SQL("true"),
            most=Literal(most),
        )
        query = SQL(
            "SELECT given.place, found.value"
            " FROM unnest(%s::{}[], %s::timestamptz[], %s::timestamptz[]) WITH ORDINALITY"
            " AS given (entity, after, up, place), LATERAL (SELECT {} LIMIT 1) AS found (value)"
            " WHERE found.value IS NOT NULL"
        ).format(SQL(kind), inner)
        names = [name for name, _, _ in spans]
        times = [[_to_time(after) for _, after, _ in spans], [_to_time(up) for _, _, up in spans]]
        answers = self._raw.execute(query, [names, *times]).fetchall()
        return [(names[cast(int, place) - 1], value) for place, value in answers]


def _to_time(value_us: int) -> datetime:
    return _EPOCH + value_us * _TICK


def _to_us(value: object) -> int:
    return (cast(datetime, value) - _EPOCH) // _TICK
