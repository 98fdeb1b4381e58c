"""Rows of text against the contract, a column at a time: typed values, and a fault for every cell that breaks a rule.

What concerns several rows (a key that repeats, missing steps) is judged by `ingestion.staging`, over whole inputs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.contract import Column, Contract, Dtype
from ingestion.faults import RowFault
from ingestion.files import TextRows

ARROW_TYPES: dict[Dtype, pa.DataType] = {
    "float": pa.float64(),
    "integer": pa.int64(),
    "text": pa.string(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
}
LINE = "source_line"
EARLIEST_AT = datetime(1900, 1, 1, tzinfo=UTC)
"""No observation is older: an earlier time is a slip of the pen, and would cost a partition."""

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
    r" ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
)
_LARGEST_EXACT = 2.0**53
_RULES: dict[Dtype, str] = {
    "float": "a finite number with a decimal point is needed, without signs for thousands",
    "integer": "a whole number is needed",
    "text": "text is needed",
    "boolean": "true, false, 1 or 0 is needed",
    "time": "a date or time as in 2024-01-31 or 2024-01-31T12:00:00Z is needed",
}
_ONE_MARK = "one decimal mark is needed throughout; the file has commas and points"

Mask = NDArray[np.bool_]
Mark = Literal[",", "."]


@dataclass(frozen=True)
class CheckedRows:
    """`table` holds the rows without fault, typed, with their lines in column `source_line`."""

    table: pa.Table
    faults: tuple[RowFault, ...]


def find_missing_columns(contract: Contract, present: Iterable[str], found: Sequence[str], line: int) -> list[RowFault]:
    """A fault for each column that the contract needs and the heading lacks; `found` are the heading's other names."""
    known = set(present)
    shown = ", ".join(found) or "no other columns"
    return [
        RowFault(
            line, column.name, shown, f"a column with heading {' or '.join((column.name, *column.aliases))} is needed"
        )
        for column in contract.columns
        if column.name not in known and is_required(contract, column)
    ]


def is_required(contract: Contract, column: Column) -> bool:
    """Whether every row must have a value in that column."""
    return not column.is_nullable or column.name in (contract.key.entity, contract.key.time, contract.key.id)


class RowChecker:
    """Checks one input, chunk by chunk; it remembers which decimal mark the input uses."""

    def __init__(self, contract: Contract, *, has_decimal_comma: bool, now: datetime) -> None:
        self._contract = contract
        self._has_decimal_comma = has_decimal_comma
        self._now = now
        self._mark: Mark | None = None

    def check(self, rows: TextRows) -> CheckedRows:
        """Type the rows and check every cell: presence, type, finiteness, bounds, allowed values, time."""
        arrays: dict[str, pa.Array] = {}
        faults = list(rows.faults)
        is_bad = np.zeros(len(rows.lines), dtype=np.bool_)
        for column in self._contract.columns:
            if column.name in rows.cells:
                text = pc.utf8_trim_whitespace(rows.cells[column.name])
                arrays[column.name], broken = self._check_column(column, text)
                faults += _list_faults(column.name, text, rows.lines, broken)
                for mask, _rule in broken:
                    is_bad |= mask
        arrays[LINE] = pa.array(rows.lines)
        table = pa.table(arrays)
        if is_bad.any():
            table = table.filter(pa.array(~is_bad))
        faults.sort(key=lambda fault: fault.line or 0)
        return CheckedRows(table, tuple(faults))

    def _check_column(self, column: Column, text: pa.StringArray) -> tuple[pa.Array, list[tuple[Mask, str]]]:
        """The typed values, null where empty or wrong, and the masks of cells that break a rule; one rule a cell."""
        is_empty = _to_mask(pc.equal(text, ""))
        filled = pc.if_else(pa.array(is_empty), pa.scalar(None, pa.string()), text) if is_empty.any() else text
        broken: list[tuple[Mask, str]] = []
        if column.dtype in ("float", "integer") and self._has_decimal_comma:
            filled, is_mixed = self._unify_mark(filled)
            broken.append((is_mixed, _ONE_MARK))
        values = _CONVERTERS[column.dtype](filled)
        if is_required(self._contract, column):
            broken.append((is_empty, "a value is needed"))
        known = is_empty.copy()
        for mask, _rule in broken:
            known |= mask
        broken.append((_to_mask(pc.is_null(values)) & ~known, _RULES[column.dtype]))
        broken += [
            (_to_mask(pc.fill_null(mask, False)), rule)
            for mask, rule in self._find_out_of_range(column, values, filled)
        ]
        return values, [(mask, rule) for mask, rule in broken if mask.any()]

    def _unify_mark(self, text: pa.StringArray) -> tuple[pa.StringArray, Mask]:
        """Numbers with a decimal point, and which cells use another mark than the input did before."""
        has_comma = pc.fill_null(pc.match_substring(text, ","), False)
        has_point = pc.fill_null(pc.match_substring(text, "."), False)
        if self._mark is None:
            self._mark = "," if pc.any(has_comma).as_py() else "." if pc.any(has_point).as_py() else None
        is_mixed = _to_mask(has_point if self._mark == "," else has_comma)
        if self._mark == ",":
            text = pc.replace_substring(text, ",", ".", max_replacements=1)
        return pc.if_else(pa.array(is_mixed), pa.scalar(None, pa.string()), text), is_mixed

    def _find_out_of_range(
        self, column: Column, values: pa.Array, text: pa.StringArray
    ) -> Iterator[tuple[pa.BooleanArray, str]]:
        """Masks of typed cells that are not allowed; the rules do not overlap."""
        if column.dtype in ("float", "integer"):
            if column.minimum is not None:
                yield pc.less(values, column.minimum), f"at least {_show(column.minimum, column.unit)} is allowed"
            if column.maximum is not None:
                yield pc.greater(values, column.maximum), f"at most {_show(column.maximum, column.unit)} is allowed"
        if column.name == self._contract.key.time:
            now = pa.scalar(self._now.astimezone(UTC), ARROW_TYPES["time"])
            earliest = pa.scalar(EARLIEST_AT, ARROW_TYPES["time"])
            yield pc.greater(values, now), f"no later than now, {self._now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            yield pc.less(values, earliest), f"no earlier than {EARLIEST_AT:%Y-%m-%d}"
        if column.allowed:
            is_allowed = pc.is_in(text, value_set=pa.array(column.allowed))
            yield pc.and_(pc.is_valid(values), pc.invert(is_allowed)), f"allowed are {', '.join(column.allowed)}"


def _show(bound: float, unit: str) -> str:
    return f"{bound!r} {unit}".rstrip()


def _to_mask(array: pa.BooleanArray) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask


def _list_faults(
    name: str, text: pa.StringArray, lines: NDArray[np.int64], broken: Sequence[tuple[Mask, str]]
) -> Iterator[RowFault]:
    for mask, rule in broken:
        for at in np.flatnonzero(mask):
            yield RowFault(int(lines[at]), name, text[int(at)].as_py(), rule)


def _convert_floats(text: pa.StringArray) -> pa.Array:
    try:
        values = pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        values = pc.cast(_keep_matches(text, _NUMBER), pa.float64())
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def _convert_integers(text: pa.StringArray) -> pa.Array:
    """Whole numbers; "5.0" is one, as spreadsheets and pandas write it."""
    text = pc.replace_substring_regex(_keep_matches(text, _NUMBER), pattern=r"^\+", replacement="")
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        is_plain = pc.match_substring_regex(text, r"^-?[0-9]{1,18}$")
        plain = pc.cast(pc.if_else(is_plain, text, None), pa.int64())
        floats = pc.cast(text, pa.float64())
        is_whole = pc.and_(pc.equal(pc.trunc(floats), floats), pc.less_equal(pc.abs(floats), _LARGEST_EXACT))
        return pc.coalesce(plain, pc.cast(pc.if_else(is_whole, floats, None), pa.int64()))


def _convert_booleans(text: pa.StringArray) -> pa.Array:
    lower = pc.utf8_lower(text)
    is_true = pc.is_in(lower, value_set=pa.array(["true", "1"]))
    is_false = pc.is_in(lower, value_set=pa.array(["false", "0"]))
    return pc.if_else(pc.or_(is_true, is_false), is_true, pa.scalar(None, pa.bool_()))


def _convert_times(text: pa.StringArray) -> pa.Array:
    """Times in UTC; one without a zone is UTC already."""
    # Arrow reads a column in which all or none have a zone, several times as fast as pandas reads a mixed one.
    for read in (_cast_local, _cast_zoned):
        with suppress(pa.ArrowInvalid):
            return read(text)
    cells = _keep_matches(text, _TIME).to_pandas()
    times = pd.to_datetime(cells, format="ISO8601", utc=True, errors="coerce")
    return pa.Array.from_pandas(times.dt.floor("us")).cast(ARROW_TYPES["time"])


def _cast_local(text: pa.StringArray) -> pa.Array:
    return pc.assume_timezone(pc.cast(text, pa.timestamp("us")), "UTC")


def _cast_zoned(text: pa.StringArray) -> pa.Array:
    return pc.cast(text, ARROW_TYPES["time"])


def _convert_text(text: pa.StringArray) -> pa.Array:
    return text


def _keep_matches(text: pa.StringArray, pattern: str) -> pa.StringArray:
    return pc.if_else(pc.match_substring_regex(text, pattern), text, pa.scalar(None, pa.string()))


_CONVERTERS = {
    "float": _convert_floats,
    "integer": _convert_integers,
    "text": _convert_text,
    "boolean": _convert_booleans,
    "time": _convert_times,
}
