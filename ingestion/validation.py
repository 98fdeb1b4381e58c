"""Rows of text against the contract, a column at a time: typed values, and a fault for every cell that breaks a rule.

A key that repeats and missing steps are judged over whole inputs, by `ingestion.staging`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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

MAX_KEY_BYTES = 500
"""Longest text in a key: PostgreSQL's index takes little more than 2,000 bytes of a whole row's key."""

LATEST_ZONE = timedelta(hours=14)
"""How far local clocks are ahead of UTC at most: a time without a zone may be this much later than now."""

_ZONED = r":[0-9.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
    r" ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
)
_ZONE = r":[0-9.]+ ?(?:Z|[+-][0-9:]+)$"
_LARGEST_EXACT = 2.0**53
_RULES: dict[Dtype, str] = {
    "float": "a finite number with a decimal point is needed, without signs for thousands; what is unknown stays empty",
    "integer": "a whole number is needed, without signs for thousands; what is unknown stays empty",
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
        if column.name not in known and column.default is None and is_required(contract, column)
    ]


def list_columns(contract: Contract, present: Iterable[str]) -> tuple[str, ...]:
    """Columns that rows of an input have: those that it brings, and those that it lacks and that have a default."""
    known = set(present)
    return tuple(column.name for column in contract.columns if column.name in known or column.default is not None)


def is_required(contract: Contract, column: Column) -> bool:
    """Whether every row must have a value in that column."""
    return not column.is_nullable or column.name in (contract.key.entity, contract.key.time, contract.key.id)


class RowChecker:
    """Checks one input, chunk by chunk; it remembers which decimal mark the input uses and how far its times are."""

    def __init__(self, contract: Contract, *, has_decimal_comma: bool, now: datetime) -> None:
        self._contract = contract
        self._has_decimal_comma = has_decimal_comma
        self._now = now.astimezone(UTC)
        self._mark: Mark | None = None
        self._latest_us: dict[object, int] = {}

    def check(self, rows: TextRows) -> CheckedRows:
        """Type the rows and check every cell: presence, type, finiteness, bounds, allowed values, time, order.

        Cells are text, or come with a type of their own as in Parquet.
        """
        arrays: dict[str, pa.Array] = {}
        faults = list(rows.faults)
        is_bad = np.zeros(len(rows.lines), dtype=np.bool_)
        for column in self._contract.columns:
            cells = rows.cells.get(column.name)
            if cells is None and column.default is not None:
                cells = pa.repeat(pa.scalar(column.default, pa.string()), len(rows.lines))
            if cells is not None:
                arrays[column.name], broken = self._check_column(column, cells)
                faults += _list_faults(column.name, cells, rows.lines, broken)
                for mask, _rule in broken:
                    is_bad |= mask
        time = self._contract.key.time
        if self._contract.order == "ascending" and time in arrays:
            is_early = self._find_steps_back(arrays, time, is_bad)
            rule = "no earlier than the rows before it; the clock steps back here"
            faults += _list_faults(time, rows.cells[time], rows.lines, [(is_early, rule)])
            is_bad |= is_early
        arrays[LINE] = pa.array(rows.lines)
        table = pa.table(arrays)
        if is_bad.any():
            table = table.filter(pa.array(~is_bad))
        faults.sort(key=lambda fault: fault.line or 0)
        return CheckedRows(table, tuple(faults))

    def _check_column(self, column: Column, cells: pa.Array) -> tuple[pa.Array, list[tuple[Mask, str]]]:
        """The typed values, null where empty or wrong, and the masks of cells that break a rule; one rule a cell."""
        values = _take_typed(cells, column.dtype)
        if values is not None:
            text, is_empty = cells, _to_mask(pc.is_null(cells))
            broken = self._find_unfit(column, values, is_empty, is_empty)
        else:
            text = pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), ""))
            is_empty = _to_mask(pc.equal(text, ""))
            text = pc.if_else(pa.array(is_empty), pa.scalar(None, pa.string()), text) if is_empty.any() else text
            is_mixed = np.zeros(len(text), dtype=np.bool_)
            if column.dtype in ("float", "integer") and self._has_decimal_comma:
                text, is_mixed = self._unify_mark(text)
            values = _convert(column, text)
            broken = [(is_mixed, _ONE_MARK), *self._find_unfit(column, values, is_empty, is_empty | is_mixed)]
        broken += [
            (_to_mask(pc.fill_null(mask, False)), rule) for mask, rule in self._find_out_of_range(column, values, text)
        ]
        return values, [(mask, rule) for mask, rule in broken if mask.any()]

    def _find_unfit(self, column: Column, values: pa.Array, is_empty: Mask, known: Mask) -> list[tuple[Mask, str]]:
        """Cells that lack a value or have one of another type; `known` ones need no further word about the type."""
        is_wrong = _to_mask(pc.is_null(values)) & ~known
        is_missing = is_empty if is_required(self._contract, column) else np.zeros(len(values), dtype=np.bool_)
        rule = f"a time in the form {column.time_format} is needed" if column.time_format else _RULES[column.dtype]
        return [(is_missing, "a value is needed"), (is_wrong, rule)]

    def _find_steps_back(self, arrays: dict[str, pa.Array], time: str, is_bad: Mask) -> Mask:
        """Which rows `(rows,)` are earlier than a row before them of the same entity; bad ones do not count."""
        rows = pd.DataFrame({"at": pc.fill_null(arrays[time].cast(pa.int64()), 0).to_numpy(zero_copy_only=False)})
        entity = self._contract.key.entity
        rows["entity"] = arrays[entity].to_pandas() if entity in arrays else ""
        rows = rows[~is_bad]
        is_early = np.zeros(len(is_bad), dtype=np.bool_)
        before = rows["entity"].map(self._latest_us).fillna(np.iinfo(np.int64).min).astype(np.int64)
        latest = rows.groupby("entity", sort=False)["at"].cummax().clip(lower=before)
        is_early[~is_bad] = (rows["at"] < latest).to_numpy()
        self._latest_us.update(latest.groupby(rows["entity"], sort=False).max().to_dict())
        return is_early

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
            yield from self._find_out_of_time(values, text)
        if column.allowed:
            is_allowed = pc.is_in(text.cast(pa.string()), value_set=pa.array(column.allowed))
            yield pc.and_(pc.is_valid(values), pc.invert(is_allowed)), f"allowed are {', '.join(column.allowed)}"
        elif column.dtype == "text":
            has_nul = pc.match_substring(values, "\0")
            yield has_nul, "text without the character NUL is needed"
            if column.name in (self._contract.key.entity, self._contract.key.id):
                is_long = pc.greater(pc.binary_length(values), MAX_KEY_BYTES)
                yield pc.and_not(is_long, has_nul), f"a key of at most {MAX_KEY_BYTES} bytes is needed"

    def _find_out_of_time(self, values: pa.Array, text: pa.Array) -> Iterator[tuple[pa.BooleanArray, str]]:
        """Masks of times in the future and of those that are older than anything that is kept."""
        is_late = pc.greater(values, pa.scalar(self._now, ARROW_TYPES["time"]))
        if pc.any(is_late).as_py():
            latest = self._now + LATEST_ZONE
            is_too_late = pc.greater(values, pa.scalar(latest, ARROW_TYPES["time"]))
            is_zoned = _find_zoned(text)
            yield pc.and_(is_late, is_zoned), f"no later than now, {self._now:%Y-%m-%dT%H:%M:%SZ}"
            rule = f"no later than now in the latest time zone, {latest:%Y-%m-%dT%H:%M:%S}"
            yield pc.and_(is_too_late, pc.invert(is_zoned)), rule
        earliest_at, rule = EARLIEST_AT, f"no earlier than {EARLIEST_AT:%Y-%m-%d}"
        if self._contract.retention_days is not None:
            border_at = self._now - timedelta(days=self._contract.retention_days)
            if border_at > earliest_at:
                kept = f"rows are kept for {self._contract.retention_days} days"
                earliest_at, rule = border_at, f"no earlier than {border_at:%Y-%m-%dT%H:%M:%SZ}, since {kept}"
        yield pc.less(values, pa.scalar(earliest_at, ARROW_TYPES["time"])), rule


def _take_typed(cells: pa.Array, dtype: Dtype) -> pa.Array | None:
    """Cells that come with a type which holds such values, in the contract's own; None where they are read as text."""
    if not _FITTING[dtype](cells.type):
        return None
    try:
        values = cells.cast(ARROW_TYPES[dtype])
    except pa.ArrowInvalid:
        # Some are no whole number or too fine a time: as text, each of them is judged by itself.
        return None
    if dtype == "float":
        return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
    return values


def _find_zoned(text: pa.Array) -> pa.BooleanArray:
    """Which times were written with a zone."""
    if pa.types.is_temporal(text.type):
        has_zone = pa.types.is_timestamp(text.type) and text.type.tz is not None
        return pa.repeat(pa.scalar(has_zone), len(text))
    return pc.match_substring_regex(text, _ZONED)


def _show(bound: float, unit: str) -> str:
    return f"{bound!r} {unit}".rstrip()


def _to_mask(array: pa.BooleanArray) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask


def _list_faults(
    name: str, cells: pa.Array, lines: NDArray[np.int64], broken: Sequence[tuple[Mask, str]]
) -> Iterator[RowFault]:
    for mask, rule in broken:
        for at in np.flatnonzero(mask):
            value = cells[int(at)].as_py()
            shown = "" if value is None else str(value).strip().replace("\0", "\\x00")
            yield RowFault(int(lines[at]), name, shown, rule)


def _convert(column: Column, text: pa.StringArray) -> pa.Array:
    if column.time_format:
        times = pd.to_datetime(text.to_pandas(), format=column.time_format, utc=True, errors="coerce", exact=True)
        return pa.Array.from_pandas(times.dt.floor("us")).cast(ARROW_TYPES["time"])
    return _CONVERTERS[column.dtype](text)


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
    # Each on its own: pandas gives a time without a zone that of the time before it.
    is_zoned = cells.str.contains(_ZONE, na=False)
    zoned, local = (
        pd.to_datetime(cells.where(mask), format="ISO8601", utc=True, errors="coerce") for mask in (is_zoned, ~is_zoned)
    )
    times = zoned.fillna(local)
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

_FITTING: dict[Dtype, Callable[[pa.DataType], bool]] = {
    "float": lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind),
    "integer": lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind),
    "text": lambda _kind: False,
    "boolean": pa.types.is_boolean,
    "time": lambda kind: pa.types.is_timestamp(kind) or pa.types.is_date(kind),
}
