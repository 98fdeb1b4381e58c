"""Raw input, kept in compressed pieces, and the way back from a stored row to the line that brought it."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

import psycopg
from isal import isal_zlib
from psycopg.sql import SQL, Identifier
from sqlalchemy import Connection, exists, insert, select

from core.contract import Contract
from core.data_errors import ObservationNotFound
from core.tables.data import source_pieces, sources
from ingestion.store import (
    POSTGRES_TYPES,
    ROW_HASH,
    SOURCE,
    build_table_name,
    get_raw_connection,
    has_table,
    join_names,
    list_key,
)
from ingestion.validation import LINE

# The library writes what zlib reads, four times as fast.
_COMPRESSION = 1
_LONGEST_ROW_BYTES = 1 << 20
_TEXT_FORMS = ("csv", "rows")


def has_raw(connection: Connection, model: str, sha256: str) -> bool:
    """Whether a source of the model keeps these bytes."""
    is_same = (sources.c.model == model) & (sources.c.sha256 == sha256)
    return bool(connection.scalar(select(exists().where(is_same, source_pieces.c.source_id == sources.c.id))))


def store_raw(connection: Connection, source_id: UUID, pieces: Iterable[bytes]) -> None:
    """Keep the bytes of a source."""
    for number, piece in enumerate(pieces):
        content = isal_zlib.compress(piece, _COMPRESSION)
        connection.execute(insert(source_pieces).values(source_id=source_id, piece=number, content=content))


def read_raw(connection: Connection, source_id: UUID) -> Iterator[bytes]:
    """The bytes of a source, piece by piece, from whichever source of its model keeps them."""
    own, keeper = sources.alias("own"), sources.alias("keeper")
    keeps = exists().where(source_pieces.c.source_id == keeper.c.id)
    query = (
        select(keeper.c.id)
        .join(own, (own.c.model == keeper.c.model) & (own.c.sha256 == keeper.c.sha256))
        .where(own.c.id == source_id, keeps)
        .limit(1)
    )
    kept_by = connection.scalar(query)
    number = 0
    pieces = source_pieces.c
    while (
        content := connection.scalar(select(pieces.content).where(pieces.source_id == kept_by, pieces.piece == number))
    ) is not None:
        yield zlib.decompress(content)
        number += 1


@dataclass(frozen=True)
class Origin:
    """Where a stored row came from: its source, and its line there as text, None where the source is no text."""

    source_id: UUID
    kind: str
    form: str
    name: str
    actor: str
    received_at: datetime
    line: int
    text: str | None


def get_origin(connection: Connection, contract: Contract, key: Sequence[str]) -> Origin:
    """The raw input of the row with that key, its values in the order of the contract's key.

    Raises ObservationNotFound.
    """
    names = list_key(contract)
    found = None
    if len(key) == len(names) and has_table(connection, contract.model):
        found = _find_row(connection, contract, dict(zip(names, key, strict=True)))
    if found is None:
        raise ObservationNotFound(contract.model, names, key)
    source_id, line = found
    source = connection.execute(select(sources).where(sources.c.id == source_id)).one()
    text = find_line(read_raw(connection, source_id), line) if source.form in _TEXT_FORMS else None
    return Origin(source_id, source.kind, source.form, source.name, source.actor, source.received_at, line, text)


def find_line(pieces: Iterable[bytes], number: int) -> str | None:
    """The row that begins on line `number`, from 1; a row whose quoted cells hold ends of lines is several lines."""
    row = b""
    for at, line in enumerate(_split_lines(pieces), start=1):
        if at >= number:
            row += line
            if row.count(b'"') % 2 == 0 or len(row) > _LONGEST_ROW_BYTES:
                break
    return row.decode("utf-8", errors="replace").rstrip("\r\n") if row else None


def _split_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _find_row(connection: Connection, contract: Contract, key: Mapping[str, str]) -> tuple[UUID, int] | None:
    conditions = []
    for name in key:
        kind = "text" if name == ROW_HASH else POSTGRES_TYPES[contract.column(name).dtype]
        conditions.append(SQL("{} = %s::{}").format(Identifier(name), SQL(kind)))
    query = SQL("SELECT {} FROM {} WHERE {}").format(
        join_names([SOURCE, LINE]), Identifier(build_table_name(contract.model)), SQL(" AND ").join(conditions)
    )
    raw = get_raw_connection(connection)
    try:
        row = raw.execute(query, list(key.values())).fetchone()
    except psycopg.DataError:
        # What is not of the key's type is no row's key.
        return None
    return cast("tuple[UUID, int] | None", row)
