"""The typed table of each workload's observations, made from its contract.

Every name in it comes from the contract. A prepared row leads back to its raw one by `source_id` and `source_line`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pandas as pd
import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from sqlalchemy import Connection

from core.contract import Contract, Dtype
from core.database import PartitionInterval, create_partitions, drop_partitions
from core.errors import DeclarationRejected
from core.names import name_observations
from ingestion.validation import LINE

SOURCE = "source_id"
ROW_HASH = "row_hash"
"""Key of rows that have neither time nor id: SHA-256 of the values that are there."""

POSTGRES_TYPES: dict[Dtype, str] = {
    "float": "double precision",
    "integer": "bigint",
    "text": "text",
    "boolean": "boolean",
    "time": "timestamp with time zone",
}
_PANDAS_TYPES: dict[Dtype, str] = {
    "float": "float64",
    "integer": "Int64",
    "text": "string",
    "boolean": "boolean",
    "time": "datetime64[us, UTC]",
}
AHEAD = timedelta(days=31)
"""How long before its first row a partition is there."""

_DAY_S = 86_400.0
# A name in PostgreSQL has 63 bytes; a partition's adds at most `_y2024m12`.
_MOST_NAME = 63 - len("observations__y2024m12")

RawConnection = psycopg.Connection[tuple[object, ...]]


def get_raw_connection(connection: Connection) -> RawConnection:
    """The psycopg connection under an SQLAlchemy one: COPY and composed names need it."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError(f"a psycopg connection is needed, not {type(raw).__name__}")
    return raw


def build_table_name(model: str) -> str:
    """Name of the table of a model's observations; raises DeclarationRejected for a name too long to be one."""
    if len(model) > _MOST_NAME:
        raise DeclarationRejected(model, f"its name is longer than the {_MOST_NAME} characters that a table's allows")
    return name_observations(model)


def list_key(contract: Contract) -> tuple[str, ...]:
    """Columns of the table's primary key."""
    key = contract.key
    if key.time is not None:
        return (key.time,) if key.entity is None else (key.entity, key.time)
    return (key.id or ROW_HASH,)


def get_partition_interval(contract: Contract) -> PartitionInterval:
    """A year a partition for series of daily or longer steps, else a month."""
    return "year" if (contract.step_s or 0.0) >= _DAY_S else "month"


def join_names(names: Sequence[str], prefix: str = "") -> Composed:
    """The names as SQL, quoted and separated by commas, each behind `prefix`."""
    return SQL(", ").join([SQL("{}{}").format(SQL(prefix), Identifier(name)) for name in names])


def lock_observations(connection: Connection, model: str) -> None:
    """Hold the model's rows until the transaction ends: one writer at a time, so that steps and counts are exact."""
    get_raw_connection(connection).execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"observations:{model}"]
    )


def has_table(connection: Connection, model: str) -> bool:
    """Whether any rows of the model were ever taken in."""
    row = get_raw_connection(connection).execute("SELECT to_regclass(%s)", [build_table_name(model)]).fetchone()
    return row is not None and row[0] is not None


def prepare_table(connection: Connection, contract: Contract) -> None:
    """Create the contract's table, or add the columns that it gained; call it under `lock_observations`.

    Raises DeclarationRejected where a column's type or the key contradicts the table: rows are never rewritten.
    """
    taken = {SOURCE, LINE, ROW_HASH} & {column.name for column in contract.columns}
    if taken:
        raise DeclarationRejected(
            contract.model, f"column {sorted(taken)[0]!r} has a name that the platform uses itself"
        )
    raw = get_raw_connection(connection)
    table = build_table_name(contract.model)
    if has_table(connection, contract.model):
        _widen(raw, table, contract)
    else:
        _create(raw, table, contract)


def _create(raw: RawConnection, table: str, contract: Contract) -> None:
    key = list_key(contract)
    columns = [_define(column.name, POSTGRES_TYPES[column.dtype]) for column in contract.columns]
    if key == (ROW_HASH,):
        columns.append(_define(ROW_HASH, "text"))
    columns += [_define(SOURCE, "uuid NOT NULL"), _define(LINE, "bigint")]
    partition = (
        SQL("") if contract.key.time is None else SQL(" PARTITION BY RANGE ({})").format(Identifier(contract.key.time))
    )
    raw.execute(
        SQL("CREATE TABLE {} ({}, PRIMARY KEY ({})){}").format(
            Identifier(table), SQL(", ").join(columns), join_names(key), partition
        )
    )
    if contract.ranking is not None and contract.key.entity is not None:
        # What one user has is asked for with every recommendation.
        raw.execute(SQL("CREATE INDEX ON {} ({})").format(Identifier(table), Identifier(contract.key.entity)))


def _define(name: str, definition: str) -> Composed:
    return SQL("{} {}").format(Identifier(name), SQL(definition))


def is_prepared(connection: Connection, contract: Contract) -> bool:
    """Whether the table is there as `prepare_table` would leave it; asks without a lock."""
    raw, table = get_raw_connection(connection), build_table_name(contract.model)
    if not has_table(connection, contract.model):
        return False
    stored = _load_columns(raw, table)
    wanted = {column.name: POSTGRES_TYPES[column.dtype] for column in contract.columns}
    return wanted.items() <= stored.items() and _load_key(raw, table) == list_key(contract)


def _load_columns(raw: RawConnection, table: str) -> dict[str, str]:
    """Names and types of the table's columns."""
    found = raw.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    )
    return {str(name): str(kind) for name, kind in found}


def _load_key(raw: RawConnection, table: str) -> tuple[str, ...]:
    """Columns of the table's primary key."""
    found = raw.execute(
        "SELECT attname FROM pg_index, unnest(indkey) WITH ORDINALITY AS place (attnum, position)"
        " JOIN pg_attribute USING (attnum) WHERE indisprimary AND indrelid = %s::regclass AND attrelid = indrelid"
        " ORDER BY position",
        [table],
    )
    return tuple(str(row[0]) for row in found)


def _widen(raw: RawConnection, table: str, contract: Contract) -> None:
    stored, key = _load_columns(raw, table), _load_key(raw, table)
    if key != list_key(contract):
        raise DeclarationRejected(
            contract.model, f"its rows are stored under the key {[*key]}, not {[*list_key(contract)]}"
        )
    for column in contract.columns:
        wanted = POSTGRES_TYPES[column.dtype]
        if stored.get(column.name, wanted) != wanted:
            raise DeclarationRejected(
                contract.model,
                f"column {column.name!r} is declared {column.dtype} but stored as {stored[column.name]}; "
                "declare a column of another name",
            )
        if column.name not in stored:
            definition = _define(column.name, wanted)
            raw.execute(SQL("ALTER TABLE {} ADD COLUMN {}").format(Identifier(table), definition))


def make_partitions_ahead(connection: Connection, contract: Contract, now: datetime) -> None:
    """See that the partitions of the present and of the next AHEAD are there."""
    if contract.key.time is not None:
        interval = get_partition_interval(contract)
        create_partitions(connection, build_table_name(contract.model), now, now + AHEAD, interval)


def drop_expired(connection: Connection, contract: Contract, now: datetime) -> list[str]:
    """Drop the partitions whose every row is older than the contract keeps; their names. See `lock_observations`."""
    if contract.retention_days is None:
        return []
    border_at = now - timedelta(days=contract.retention_days)
    return drop_partitions(connection, build_table_name(contract.model), border_at, get_partition_interval(contract))


def build_selection(
    contract: Contract,
    columns: Sequence[str],
    first_at: datetime | None = None,
    last_at: datetime | None = None,
    entities: Sequence[str] | None = None,
) -> Composed:
    """A query of the observations' columns, ordered by key, from `first_at` to `last_at`, both inclusive."""
    conditions: list[Composable] = []
    if contract.key.time is not None:
        time = Identifier(contract.key.time)
        if first_at is not None:
            conditions.append(SQL("{} >= {}").format(time, Literal(first_at)))
        if last_at is not None:
            conditions.append(SQL("{} <= {}").format(time, Literal(last_at)))
    if contract.key.entity is not None and entities is not None:
        conditions.append(SQL("{}::text = ANY({})").format(Identifier(contract.key.entity), Literal(list(entities))))
    where = SQL(" WHERE {}").format(SQL(" AND ").join(conditions)) if conditions else SQL("")
    return SQL("SELECT {} FROM {}{} ORDER BY {}").format(
        join_names(columns), Identifier(build_table_name(contract.model)), where, join_names(list_key(contract))
    )


def load_observations(
    connection: Connection,
    contract: Contract,
    *,
    first_at: datetime | None = None,
    last_at: datetime | None = None,
) -> pd.DataFrame:
    """The model's rows in the contract's columns, ordered by key, `first_at` to `last_at` inclusive.

    Integers, text and booleans come in pandas' nullable types, times in UTC.
    """
    names = [column.name for column in contract.columns]
    rows: list[tuple[object, ...]] = []
    if has_table(connection, contract.model):
        rows = get_raw_connection(connection).execute(build_selection(contract, names, first_at, last_at)).fetchall()
    frame = pd.DataFrame.from_records(rows, columns=names)
    return frame.astype({column.name: _PANDAS_TYPES[column.dtype] for column in contract.columns})


def has_observations(connection: Connection, model: str) -> bool:
    """Whether any row of the model is stored."""
    if not has_table(connection, model):
        return False
    table = Identifier(build_table_name(model))
    row = get_raw_connection(connection).execute(SQL("SELECT EXISTS (SELECT FROM {})").format(table)).fetchone()
    return bool(row and row[0])


def count_observations(connection: Connection, model: str) -> int:
    """How many rows of the model are stored."""
    if not has_table(connection, model):
        return 0
    table = Identifier(build_table_name(model))
    row = get_raw_connection(connection).execute(SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    return int(str(row[0])) if row else 0
