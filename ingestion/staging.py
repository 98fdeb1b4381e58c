"""Rows on their way in: a temporary table where one input is gathered, judged as a whole and merged by key.

It lives and dies with the transaction; memory does not grow with the input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import pyarrow as pa
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from sqlalchemy import Connection

from core.contract import Contract
from core.database import create_partitions
from ingestion.copying import copy_rows
from ingestion.faults import RowFault
from ingestion.gaps import Gap, show
from ingestion.store import (
    POSTGRES_TYPES,
    ROW_HASH,
    SOURCE,
    build_table_name,
    get_partition_interval,
    get_raw_connection,
    join_names,
    list_key,
)
from ingestion.validation import LINE

_TABLE = SQL("incoming")
_FETCH_ROWS = 1_000
# Judging and merging sort all rows of the input.
_WORK_MEMORY = "64MB"


@dataclass(frozen=True)
class Counts:
    """What a merge did to the stored rows."""

    new: int
    changed: int
    unchanged: int


class Staging:
    """The rows of one input that have these columns of the contract."""

    def __init__(self, connection: Connection, contract: Contract, columns: Sequence[str]) -> None:
        self._connection = connection
        self._raw = get_raw_connection(connection)
        self._contract = contract
        self._columns = tuple(column.name for column in contract.columns if column.name in columns)
        self._key = list_key(contract)
        self._stored = Identifier(build_table_name(contract.model))
        self._raw.execute(SQL("SET LOCAL work_mem TO {}").format(Literal(_WORK_MEMORY)))
        definitions = [
            SQL("{} {}").format(Identifier(name), SQL(POSTGRES_TYPES[contract.column(name).dtype]))
            for name in self._columns
        ]
        definitions.append(SQL("{} bigint").format(Identifier(LINE)))
        self._raw.execute(
            SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(_TABLE, SQL(", ").join(definitions))
        )

    def add(self, rows: pa.Table) -> None:
        """Copy typed rows in; they have the staging's columns and `source_line`."""
        copy_rows(self._raw, _TABLE, rows.select([*self._columns, LINE]), {})

    def close_input(self) -> None:
        """Call it once, after the last `add`: rows without time or id get their hash, and the planner its figures."""
        if self._key == (ROW_HASH,):
            # Absent and null values do not count, so that a column which the contract gains leaves hashes as they are.
            self._raw.execute("SET LOCAL timezone TO 'UTC'")
            self._raw.execute(SQL("ALTER TABLE {} ADD COLUMN {} text").format(_TABLE, Identifier(ROW_HASH)))
            self._raw.execute(
                SQL(
                    "UPDATE {table} AS taken SET {hash} = encode(sha256(convert_to("
                    "jsonb_strip_nulls(to_jsonb(taken) - {names}::text[])::text, 'UTF8')), 'hex')"
                ).format(table=_TABLE, hash=Identifier(ROW_HASH), names=Literal([LINE, ROW_HASH]))
            )
        self._raw.execute(SQL("ANALYZE {}").format(_TABLE))

    def collapse_repeats(self) -> int:
        """Reduce rows that repeat key and values to the first of them; how many were dropped."""
        if not self._has_repeats():
            return 0
        same_key = _join_equal(self._key, "later", "earlier")
        same_rest = self._compare("later", "earlier", "IS NOT DISTINCT FROM")
        return self._raw.execute(
            SQL("DELETE FROM {} AS later USING {} AS earlier WHERE {} AND {} AND earlier.{line} < later.{line}").format(
                _TABLE, _TABLE, same_key, same_rest, line=Identifier(LINE)
            )
        ).rowcount

    def find_repeated_keys(self) -> Iterator[RowFault]:
        """A fault for every row whose key an earlier row of the input has."""
        if not self._has_repeats():
            return
        key, line = join_names(self._key), Identifier(LINE)
        query = SQL(
            "SELECT {line}, first_line, {key} FROM (SELECT {line}, {key}, first_value({line}) OVER same AS first_line"
            " FROM {table} WINDOW same AS (PARTITION BY {key} ORDER BY {line})) AS keyed"
            " WHERE {line} <> first_line ORDER BY {line}"
        ).format(line=line, key=key, table=_TABLE)
        for found, first, *values in self._stream(query):
            shown = ", ".join(show(value) for value in values)
            yield RowFault(cast(int, found), self._key[-1], shown, f"each key once; line {first} has it too")

    def drop_repeated_keys(self) -> int:
        """Leave the first row under each key; how many were dropped."""
        if not self._has_repeats():
            return 0
        return self._raw.execute(
            SQL(
                "DELETE FROM {table} AS later USING (SELECT {key}, min({line}) AS first_line FROM {table}"
                " GROUP BY {key} HAVING count(*) > 1) AS first WHERE {same} AND later.{line} > first.first_line"
            ).format(
                table=_TABLE,
                key=join_names(self._key),
                line=Identifier(LINE),
                same=_join_equal(self._key, "later", "first"),
            )
        ).rowcount

    def find_gaps(self) -> Iterator[Gap]:
        """Every place where the series, stored and new rows together, does not go on by exactly one step.

        Only what the input touches is looked at: its own span and the stored rows next to it.
        """
        time, step_s = self._contract.key.time, self._contract.step_s
        if time is None or step_s is None:
            return
        for entity, line, at, before_line, before_at in self._stream(
            self._build_gap_query(time, timedelta(seconds=step_s))
        ):
            yield Gap(
                entity=str(entity),
                after_at=cast(datetime, before_at).astimezone(UTC),
                at=cast(datetime, at).astimezone(UTC),
                after_line=cast("int | None", before_line),
                line=cast("int | None", line),
            )

    def count_longest(self, most: int) -> int:
        """Rows of the longest series that the input touches, stored and new together, counted up to `most`."""
        time, entity = Identifier(self._contract.key.time or ""), self._entity("series")
        row = self._raw.execute(
            SQL(
                "SELECT coalesce(max(length), 0) FROM (SELECT DISTINCT {own} AS entity FROM {table}) AS series,"
                " LATERAL (SELECT count(*) AS length FROM (("
                "  SELECT {time} FROM {stored} AS stored WHERE {stored_entity} = series.entity LIMIT {most}) UNION ("
                "  SELECT {time} FROM {table} AS incoming WHERE {entity} = series.entity LIMIT {most})"
                " ) AS times) AS counted"
            ).format(
                own=self._entity(""),
                table=_TABLE,
                stored=self._stored,
                time=time,
                most=Literal(most),
                stored_entity=self._entity("stored"),
                entity=self._entity("incoming"),
                series=entity,
            )
        ).fetchone()
        return cast(int, row[0]) if row else 0

    def find_span(self) -> tuple[datetime | None, datetime | None]:
        """First and last time of the input; (None, None) where it has none."""
        if self._contract.key.time is None:
            return None, None
        query = SQL("SELECT min({time}), max({time}) FROM {}").format(_TABLE, time=Identifier(self._contract.key.time))
        first_at, last_at = self._raw.execute(query).fetchone() or (None, None)
        return _to_utc(first_at), _to_utc(last_at)

    def merge(self, source_id: UUID) -> Counts:
        """Insert rows of new keys, update rows that differ in a column that the input has, leave the others alone."""
        self._make_partitions()
        total = self._count()
        names = [*self._columns, *((ROW_HASH,) if self._key == (ROW_HASH,) else ()), LINE]
        new = self._raw.execute(
            SQL("INSERT INTO {} ({}, {}) SELECT {}, {} FROM {} ON CONFLICT DO NOTHING").format(
                self._stored, join_names(names), Identifier(SOURCE), join_names(names), Literal(source_id), _TABLE
            )
        ).rowcount
        rest = [name for name in self._columns if name not in self._key]
        changed = 0
        if new < total and rest and self._key != (ROW_HASH,):
            assignments = [SQL("{name} = incoming.{name}").format(name=Identifier(name)) for name in [*rest, LINE]]
            changed = self._raw.execute(
                SQL("UPDATE {} AS stored SET {}, {} = {} FROM {} AS incoming WHERE {} AND NOT ({})").format(
                    self._stored,
                    SQL(", ").join(assignments),
                    Identifier(SOURCE),
                    Literal(source_id),
                    _TABLE,
                    _join_equal(self._key, "stored", "incoming"),
                    self._compare("stored", "incoming", "IS NOT DISTINCT FROM"),
                )
            ).rowcount
        return Counts(new=new, changed=changed, unchanged=total - new - changed)

    def select_ids(self) -> Composed:
        """A query of the input's ids, where rows have one."""
        return SQL("SELECT {} FROM {}").format(Identifier(self._contract.key.id or ""), _TABLE)

    def _make_partitions(self) -> None:
        if self._contract.key.time is None:
            return
        interval = get_partition_interval(self._contract)
        query = SQL("SELECT DISTINCT date_trunc({}, {} AT TIME ZONE 'UTC') FROM {}").format(
            Literal(interval), Identifier(self._contract.key.time), _TABLE
        )
        for (start,) in self._raw.execute(query).fetchall():
            at = cast(datetime, start).replace(tzinfo=UTC)
            create_partitions(self._connection, build_table_name(self._contract.model), at, at, interval)

    def _count(self) -> int:
        row = self._raw.execute(SQL("SELECT count(*) FROM {}").format(_TABLE)).fetchone()
        return cast(int, row[0]) if row else 0

    def _has_repeats(self) -> bool:
        query = SQL("SELECT 1 FROM {} GROUP BY {} HAVING count(*) > 1 LIMIT 1").format(_TABLE, join_names(self._key))
        return self._raw.execute(query).fetchone() is not None

    def _compare(self, left: str, right: str, operator: str) -> Composable:
        """Whether the rows agree in every column of the input outside the key."""
        rest = [name for name in self._columns if name not in self._key]
        if not rest:
            return SQL("true")
        sides = [join_names(rest, f"{side}.") for side in (left, right)]
        return SQL("({}) {} ({})").format(sides[0], SQL(operator), sides[1])

    def _entity(self, prefix: str) -> Composable:
        """The entity's column, or one constant where the workload has a single series."""
        if self._contract.key.entity is None:
            return SQL("''")
        return join_names([self._contract.key.entity], f"{prefix}." if prefix else "")

    def _build_gap_query(self, time: str, step: timedelta) -> Composed:
        return SQL(
            "WITH span AS ("
            "  SELECT {own} AS entity, min({time}) AS first_at, max({time}) AS last_at FROM {table} GROUP BY 1),"
            " beside AS ("
            "  SELECT entity, {time} AS at FROM span JOIN {stored} AS stored"
            "   ON {stored_entity} = entity AND {time} BETWEEN first_at AND last_at"
            "  UNION ALL SELECT entity, (SELECT max({time}) FROM {stored} AS stored"
            "   WHERE {stored_entity} = entity AND {time} < first_at) FROM span"
            "  UNION ALL SELECT entity, (SELECT min({time}) FROM {stored} AS stored"
            "   WHERE {stored_entity} = entity AND {time} > last_at) FROM span"
            " ), merged AS ("
            "  SELECT entity, at, max(line) AS line FROM ("
            "   SELECT {own} AS entity, {time} AS at, {line} AS line FROM {table}"
            "   UNION ALL SELECT entity, at, NULL FROM beside WHERE at IS NOT NULL"
            "  ) AS both_sides GROUP BY entity, at"
            " )"
            " SELECT entity, line, at, before_line, before_at FROM ("
            "  SELECT entity, line, at, lag(line) OVER series AS before_line, lag(at) OVER series AS before_at"
            "  FROM merged WINDOW series AS (PARTITION BY entity ORDER BY at)"
            " ) AS steps WHERE at - before_at <> {step} AND (line IS NOT NULL OR before_line IS NOT NULL) ORDER BY at"
        ).format(
            own=self._entity(""),
            stored_entity=self._entity("stored"),
            time=Identifier(time),
            line=Identifier(LINE),
            table=_TABLE,
            stored=self._stored,
            step=Literal(step),
        )

    def _stream(self, query: Composed) -> Iterator[tuple[object, ...]]:
        with self._raw.cursor(name="millrace_staging") as cursor:
            cursor.itersize = _FETCH_ROWS
            cursor.execute(query)
            yield from cursor


def _join_equal(names: Sequence[str], left: str, right: str) -> Composed:
    """Equality of the columns in both tables."""
    return SQL(" AND ").join(
        [SQL("{}.{name} = {}.{name}").format(SQL(left), SQL(right), name=Identifier(name)) for name in names]
    )


def _to_utc(value: object) -> datetime | None:
    return value.astimezone(UTC) if isinstance(value, datetime) else None
