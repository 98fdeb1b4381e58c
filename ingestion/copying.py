"""Typed rows into a table of PostgreSQL by binary COPY."""

from collections.abc import Mapping

import pyarrow as pa
from pgpq import ArrowToPostgresBinaryEncoder
from psycopg.sql import SQL, Composable

from ingestion.store import RawConnection, join_names


def copy_rows(raw: RawConnection, table: Composable, rows: pa.Table, constants: Mapping[str, bytes]) -> None:
    """Copy `rows` into the columns of their names; `constants` are values in PostgreSQL's binary form for every row."""
    for name, value in constants.items():
        rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.binary()), rows.num_rows))
    encoder = ArrowToPostgresBinaryEncoder(rows.schema)
    statement = SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, join_names(rows.column_names))
    with raw.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        for batch in rows.to_batches():
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())
