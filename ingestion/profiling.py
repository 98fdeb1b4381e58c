"""Profiling a CSV file that no workload declares yet: its columns' types, bounds and keys, as they can be seen."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from core.contract import Dtype
from core.data_errors import RowsRejected
from core.errors import Fault
from workloads.proposing import ColumnProfile, Profile

_MOST_CLASSES = 50
_TEXT: Dtype = "text"
_DTYPES: tuple[tuple[Callable[[pa.DataType], bool], Dtype], ...] = (
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_integer, "integer"),
    (pa.types.is_floating, "float"),
    (pa.types.is_timestamp, "time"),
    (pa.types.is_date, "time"),
)


def profile_file(path: Path, max_bytes: int) -> Profile:
    """Read the file once and say what it holds. Raises RowsRejected for one that is no CSV, is empty or too large."""
    if path.stat().st_size > max_bytes:
        raise _refuse(path, f"{path.stat().st_size} bytes", f"at most {max_bytes} bytes are read")
    try:
        table = arrow_csv.read_csv(path, convert_options=arrow_csv.ConvertOptions(strings_can_be_null=True))
    except pa.ArrowInvalid as error:
        raise _refuse(path, str(error).split(". ")[0], "a CSV file with one heading is expected") from error
    if table.num_rows == 0:
        raise _refuse(path, "no rows", "at least one row below the heading is needed")
    columns = tuple(_profile_column(name, table.column(name)) for name in table.column_names)
    times = [column.name for column in columns if column.dtype == "time" and not column.has_absent]
    time = times[0] if times else None
    entity = None if time is None else _find_entity(table, columns, time)
    is_key = time is not None and (entity is not None or _count(table, [time]) == table.num_rows)
    ids = [one.name for one in columns if one.distinct == table.num_rows and _can_be_id(one)]
    return Profile(
        rows=table.num_rows,
        columns=columns,
        time=time if is_key else None,
        entity=entity,
        id=ids[0] if ids and not is_key else None,
        step_s=_find_step(table, time, entity) if is_key and time is not None else None,
    )


def _profile_column(name: str, cells: pa.ChunkedArray) -> ColumnProfile:
    dtype = next((dtype for is_type, dtype in _DTYPES if is_type(cells.type)), _TEXT)
    distinct = pc.count_distinct(cells, mode="only_valid").as_py()
    bounds = pc.min_max(cells).as_py() if dtype in ("integer", "float") else {"min": None, "max": None}
    values = (
        sorted(str(value) for value in pc.unique(cells.drop_null()).to_pylist()) if distinct <= _MOST_CLASSES else ()
    )
    return ColumnProfile(name, dtype, bounds["min"], bounds["max"], cells.null_count > 0, distinct, tuple(values))


def _find_entity(table: pa.Table, columns: Sequence[ColumnProfile], time: str) -> str | None:
    """The first text or whole number that with its time names every row, where the time alone does not."""
    if _count(table, [time]) == table.num_rows:
        return None
    for column in columns:
        can_be = column.dtype in ("text", "integer") and not column.has_absent and column.distinct < table.num_rows
        if can_be and _count(table, [column.name, time]) == table.num_rows:
            return column.name
    return None


def _can_be_id(column: ColumnProfile) -> bool:
    """Text, or whole numbers without a hole: others that are all different may be measurements."""
    if column.dtype != "integer" or column.minimum is None or column.maximum is None:
        return column.dtype == "text"
    return column.maximum - column.minimum + 1 == column.distinct


def _count(table: pa.Table, names: list[str]) -> int:
    return int(table.group_by(names).aggregate([]).num_rows)


def _find_step(table: pa.Table, time: str, entity: str | None) -> float | None:
    keys = [(time, "ascending")] if entity is None else [(entity, "ascending"), (time, "ascending")]
    ordered = table.sort_by(keys)
    seconds = ordered.column(time).cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    steps = seconds[1:] - seconds[:-1]
    if entity is not None:
        names = ordered.column(entity).to_numpy()
        steps = steps[names[1:] == names[:-1]]
    return float(steps[0]) / 1e6 if len(steps) and (steps == steps[0]).all() else None


def _refuse(path: Path, value: str, rule: str) -> RowsRejected:
    return RowsRejected(path.stem, path.name, [Fault("file", value, rule)], 1)
