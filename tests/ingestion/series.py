"""Contracts and files that the tests of ingestion share."""

import io
from collections.abc import Iterable
from datetime import date, timedelta

from sqlalchemy import Engine, select, text

from core.contract import Column, Contract, Gaps, Key, build_contract
from core.tables.data import rejected_rows
from ingestion.importing import ImportResult, import_file

DAY_S = 86_400.0
FIRST_DAY = date(2021, 1, 1)
STEPS = 4


def build_series_contract(model: str, *, gaps: Gaps = "refuse", extra: tuple[Column, ...] = ()) -> Contract:
    """A daily series of one close, windows of STEPS rows, so that STEPS + 1 rows are enough."""
    return build_contract(
        model,
        description="a series",
        kind="sequence",
        columns=(
            Column(name="Date", dtype="time", aliases=("Day",)),
            Column(name="Close", dtype="float", unit="USD", minimum=0.5, maximum=1e9),
            Column(name="Volume", dtype="float", is_nullable=True),
            *extra,
        ),
        key=Key(time="Date"),
        target="Close",
        features=("Close",),
        steps=STEPS,
        step_s=DAY_S,
        gaps=gaps,
    )


def build_fleet_contract(model: str, *, step_s: float | None = 300.0, gaps: Gaps = "allow") -> Contract:
    """Readings of several machines, every five minutes."""
    return build_contract(
        model,
        description="a fleet",
        kind="sequence",
        columns=(
            Column(name="machine", dtype="text"),
            Column(name="at", dtype="time"),
            Column(name="value", dtype="float"),
        ),
        key=Key(entity="machine", time="at"),
        target="value",
        features=("value",),
        steps=2,
        step_s=step_s,
        gaps=gaps,
    )


def build_table_contract(model: str, *columns: Column, id_column: str | None = None) -> Contract:
    """Rows without time, of any columns: that a model cannot be trained on them all is nothing to storing them."""
    number = Column(name="number", dtype="float")
    contract = build_contract(
        model,
        description="a table",
        kind="tabular",
        columns=(*columns, number, number.model_copy(update={"name": "target"})),
        key=Key(id=id_column),
        target="target",
        features=("number",),
    )
    return contract.model_copy(update={"columns": columns, "target": columns[-1].name, "features": (columns[0].name,)})


def write_days(first: int, closes: Iterable[float], heading: str = "Date,Close") -> bytes:
    """A CSV of consecutive days from day number `first`."""
    rows = [f"{FIRST_DAY + timedelta(days=first + at)},{close!r}" for at, close in enumerate(closes)]
    return "\n".join([heading, *rows, ""]).encode()


def import_bytes(engine: Engine, contract: Contract, content: bytes, name: str = "rows.csv") -> ImportResult:
    return import_file(engine, contract, io.BytesIO(content), name=name, actor="test")


def count_rows(engine: Engine, model: str) -> int:
    """Stored observations of a model; 0 where it has no table."""
    with engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass(:name)"), {"name": f"observations_{model}"}) is None:
            return 0
        return int(connection.scalar(text(f"SELECT count(*) FROM observations_{model}")) or 0)  # noqa: S608 - own name


def load_rejected(engine: Engine, model: str) -> list[tuple[int | None, str, str, str]]:
    """Line, column, value and rule of every rejected cell, in order."""
    columns = rejected_rows.c
    query = select(columns.line, columns.column, columns.value, columns.rule)
    query = query.where(columns.model == model).order_by(columns.line, columns.id)
    with engine.connect() as connection:
        return [(row.line, row.column, row.value, row.rule) for row in connection.execute(query)]
