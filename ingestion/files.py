"""What a reader of any form of file gives: a heading that is matched with the contract, and rows.

There is one module for each form (`csv_files`, `xlsx_files`, `parquet_files`, `json_files`); `forms` chooses between
them. What the cells mean is for `ingestion.validation` to judge.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.contract import Column
from ingestion.faults import RowFault, Unreadable


@dataclass(frozen=True)
class TextRows:
    """Some rows of a file: their lines `(rows,)`, and for each column an Arrow array `(rows,)`.

    The array holds text, empty where the cell is, or values of the column's type in `validation.ARROW_TYPES`, null
    where the cell is empty. `faults` names rows between them that do not have as many cells as the heading.
    `read_bytes` is how far the file was read, which may be some chunks ahead.
    """

    lines: NDArray[np.int64]
    cells: Mapping[str, pa.Array]
    faults: tuple[RowFault, ...]
    read_bytes: int


@dataclass(frozen=True)
class Heading:
    """Where the contract's columns stand in a file.

    `columns` maps a contract column to its position among `width` cells; the names stand on `line`, and rows begin on
    `first_line`. With `has_decimal_comma` a comma may be a decimal mark.
    """

    columns: Mapping[str, int]
    ignored: tuple[str, ...]
    width: int
    line: int
    first_line: int
    has_decimal_comma: bool = False


@dataclass(frozen=True)
class RowFile:
    """A file that is open for reading; `rows` are read as they are asked for, and may raise Unreadable."""

    heading: Heading
    rows: Iterator[TextRows]


def match_columns(names: Sequence[str], columns: Sequence[Column], line: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """The position of each column among the names, and the names that are no column's; raises Unreadable.

    Names match without regard to case, also by `Column.aliases`, which count only where the name itself is missing.
    """
    folded = [name.casefold() for name in names]
    matched: dict[str, int] = {}
    faults = []
    for column in columns:
        for headings in ({column.name.casefold()}, {alias.casefold() for alias in column.aliases}):
            found = [at for at, name in enumerate(folded) if name in headings]
            if len(found) > 1:
                twice = ", ".join(names[at] for at in found)
                faults.append(RowFault(line, column.name, twice, f"one column stands for {column.name}"))
            if found:
                matched[column.name] = found[0]
                break
    if faults:
        raise Unreadable(faults)
    used = set(matched.values())
    return matched, tuple(name or f"column {at + 1}" for at, name in enumerate(names) if at not in used)
