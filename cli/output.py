"""What commands print: a table for a person, JSON for a script."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(document: object) -> None:
    """One JSON document on standard output; dataclasses, times and ids are written as JSON has them."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=_as_json).decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; cells are shown as text."""
    table = Table(*columns, title=title, title_justify="left", header_style="bold")
    for row in rows:
        # As it stands: what others stored is no markup of ours.
        table.add_row(*(Text(show(cell)) for cell in row))
    console.print(table)


def show(cell: object) -> str:
    """A cell's text: times to the second, nothing as a dash."""
    if cell is None:
        return "-"
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M:%S}"
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return str(cell)


def _as_json(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)
