"""Some thousands of typed rows into a model's table, by key, as arrays of one statement: no temporary table is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from sqlalchemy import Connection

from core.contract import Contract
from core.database import create_partitions
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


@dataclass(frozen=True)
class TypedRows:
    """Rows that all have the contract's columns `names`; `columns` holds each of them and the line, a list a column."""

    names: tuple[str, ...]
    columns: dict[str, list[Any]]

    @property
    def count(self) -> int:
        """How many rows."""
        return len(self.columns[LINE])


def make_partitions(connection: Connection, contract: Contract, rows: TypedRows) -> None:
    """Create the partitions that the rows' times need."""
    if contract.key.time is None:
        return
    interval = get_partition_interval(contract)
    periods = {(at.year, at.month if interval == "month" else 1): at for at in rows.columns[contract.key.time]}
    for at in periods.values():
        create_partitions(connection, build_table_name(contract.model), at, at, interval)


def upsert_rows(
    connection: Connection, contract: Contract, rows: TypedRows, source_id: UUID, *, is_completed: bool = False
) -> tuple[int, int]:
    """Insert rows of new keys and update rows that differ in one of `names`; how many of each.

    With `is_completed` only rows are updated that were completed from outcomes themselves. Every key comes once, but
    for rows under their hash; the caller holds the model's rows.
    """
    raw = get_raw_connection(connection)
    table = Identifier(build_table_name(contract.model))
    key = list_key(contract)
    names = [*rows.names, LINE]
    incoming = _build_incoming(contract, {name: rows.columns[name] for name in names})
    hashes = [ROW_HASH] if key == (ROW_HASH,) else []
    if hashes:
        # Times inside the hash are written in the session's zone.
        raw.execute("SET LOCAL timezone TO 'UTC'")
    new = raw.execute(
        SQL("INSERT INTO {} ({}, {}) SELECT {}, {} FROM {} ON CONFLICT DO NOTHING").format(
            table,
            join_names([*names, *hashes]),
            Identifier(SOURCE),
            SQL(", ").join([join_names(names), *([_HASH] if hashes else [])]),
            Literal(source_id),
            incoming,
        )
    ).rowcount
    rest = [name for name in rows.names if name not in key]
    if new == rows.count or hashes or not rest:
        return new, 0
    assignments = [SQL("{name} = incoming.{name}").format(name=Identifier(name)) for name in [*rest, LINE]]
    changed = raw.execute(
        SQL("UPDATE {} AS stored SET {}, {} = {} FROM {} WHERE {} AND {} AND {}").format(
            table,
            SQL(", ").join(assignments),
            Identifier(SOURCE),
            Literal(source_id),
            incoming,
            _match_key(contract, rows),
            _differ(rest),
            _IS_COMPLETED if is_completed else SQL("true"),
        )
    ).rowcount
    return new, changed


def find_contradicting_lines(connection: Connection, contract: Contract, rows: TypedRows) -> list[int]:
    """Lines of the rows whose key is stored with other values."""
    rest = [name for name in rows.names if name not in list_key(contract)]
    if list_key(contract) == (ROW_HASH,) or not rest:
        return []
    query = SQL("SELECT incoming.{} FROM {} AS stored JOIN {} ON {} AND {}").format(
        Identifier(LINE),
        Identifier(build_table_name(contract.model)),
        _build_incoming(contract, {name: rows.columns[name] for name in [*rows.names, LINE]}),
        _match_key(contract, rows),
        _differ(rest),
    )
    found = get_raw_connection(connection).execute(query)
    return [int(str(line)) for (line,) in found]


def count_missing_steps(connection: Connection, contract: Contract, rows: TypedRows) -> int:
    """How many of the stored rows have an earlier row in their series, but none exactly one step before."""
    time, entity, step_s = contract.key.time, contract.key.entity, contract.step_s
    if time is None or step_s is None:
        return 0
    step = timedelta(seconds=step_s)
    entities: Sequence[object] = rows.columns[entity] if entity else [""] * rows.count
    places = list(zip(entities, rows.columns[time], strict=True))
    known = set(places)
    looked_for = [(name, at) for name, at in places if (name, at - step) not in known]
    if not looked_for:
        return 0
    columns: dict[str, list[Any]] = {time: [place[1] for place in looked_for]}
    if entity:
        columns[entity] = [place[0] for place in looked_for]
    same = SQL("stored.{name} = incoming.{name} AND ").format(name=Identifier(entity)) if entity else SQL("")
    query = SQL(
        "SELECT count(*) FROM {incoming}"
        " WHERE NOT EXISTS (SELECT FROM {table} AS stored WHERE {same} stored.{time} = incoming.{time} - {step})"
        " AND EXISTS (SELECT FROM {table} AS stored WHERE {same} stored.{time} < incoming.{time})"
    ).format(
        incoming=_build_incoming(contract, columns),
        table=Identifier(build_table_name(contract.model)),
        same=same,
        time=Identifier(time),
        step=Literal(step),
    )
    row = get_raw_connection(connection).execute(query).fetchone()
    return int(str(row[0])) if row else 0


# Absent and null values do not count, as in the hash that files give their rows.
_HASH = SQL("encode(sha256(convert_to(jsonb_strip_nulls(to_jsonb(incoming) - {})::text, 'UTF8')), 'hex')").format(
    Literal(LINE)
)


_IS_COMPLETED = SQL("EXISTS (SELECT FROM sources WHERE sources.id = stored.source_id AND sources.kind = 'outcome')")


def _build_incoming(contract: Contract, columns: Mapping[str, Sequence[object]]) -> Composed:
    """The columns' values as a table `incoming`, one array a column."""
    # As literals: a column's name may hold the sign that marks a parameter.
    arrays = [
        SQL("{}::{}[]").format(
            Literal(list(values)), SQL("bigint" if name == LINE else POSTGRES_TYPES[contract.column(name).dtype])
        )
        for name, values in columns.items()
    ]
    return SQL("unnest({}) AS incoming ({})").format(SQL(", ").join(arrays), join_names(list(columns)))


def _match_key(contract: Contract, rows: TypedRows) -> Composable:
    conditions = [SQL("stored.{name} = incoming.{name}").format(name=Identifier(name)) for name in list_key(contract)]
    if contract.key.time is not None:
        # Spares the planner the partitions in which none of the rows can lie.
        times = rows.columns[contract.key.time]
        conditions.append(
            SQL("stored.{} BETWEEN {} AND {}").format(
                Identifier(contract.key.time), Literal(min(times)), Literal(max(times))
            )
        )
    return SQL(" AND ").join(conditions)


def _differ(names: Sequence[str]) -> Composed:
    return SQL("({}) IS DISTINCT FROM ({})").format(join_names(names, "stored."), join_names(names, "incoming."))
