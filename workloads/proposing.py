"""Proposing a declaration: the text of a `workload.py` from what a file's columns look like."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.contract import Dtype, Kind, Task
from core.errors import DeclarationRejected

_MOST_FEATURE_CATEGORIES = 50


@dataclass(frozen=True)
class ColumnProfile:
    """What one column's cells are; `values` are its distinct ones as text, sorted, where there are at most 50."""

    name: str
    dtype: Dtype
    minimum: float | None
    maximum: float | None
    has_absent: bool
    distinct: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """A file's columns in their order; `time`, `entity` and `id` are the columns that can be its key.

    `step_s` is the time between the rows of one entity, where it is always the same.
    """

    rows: int
    columns: tuple[ColumnProfile, ...]
    time: str | None
    entity: str | None
    id: str | None
    step_s: float | None


def propose_workload(
    name: str, seen: Profile, *, target: str | None = None, kind: Kind | None = None, without: Sequence[str] = ()
) -> str:
    """The source of `workload.py`: `target` is the last column that is no key, `kind` a sequence where rows are a
    series of numbers, else tabular; columns in `without` are neither.

    Bounds are those seen, widened by the range that was seen. Raises DeclarationRejected where the target or a column
    of `without` is missing, or the target cannot be one.
    """
    if unknown := sorted(set(without) - {column.name for column in seen.columns}):
        raise DeclarationRejected(name, f"{unknown[0]!r}, to be left out, is none of the file's columns")
    seen = _leave_out(seen, without)
    key = {seen.time, seen.entity, seen.id}
    columns = [column for column in seen.columns if column.name not in without]
    free = [column for column in columns if column.name not in key]
    by_name = {column.name: column for column in free}
    wanted = target or (free[-1].name if free else "")
    if wanted not in by_name:
        raise DeclarationRejected(name, f"target {wanted!r} is none of the columns {', '.join(by_name)}")
    chosen = by_name[wanted]
    kind = kind or _choose_kind(seen, chosen)
    features = _choose_features(kind, free, chosen)
    if not features:
        raise DeclarationRejected(name, f"no column beside {wanted!r} can be a feature of a {kind}")
    return "\n".join(_render(name, seen, columns, chosen, kind, features)) + "\n"


def _leave_out(seen: Profile, without: Sequence[str]) -> Profile:
    """What was seen, with no key that needs a column of `without`: then a row is known by its values."""
    if {seen.time, seen.entity} & set(without):
        return replace(seen, time=None, entity=None, step_s=None)
    return replace(seen, id=None) if seen.id in without else seen


def _choose_kind(seen: Profile, target: ColumnProfile) -> Kind:
    is_series = seen.time is not None and target.dtype in ("float", "integer") and target.distinct > 2
    return "sequence" if is_series else "tabular"


def _choose_features(kind: Kind, free: Sequence[ColumnProfile], target: ColumnProfile) -> list[ColumnProfile]:
    if kind == "sequence":
        others = [c for c in free if c.dtype in ("float", "integer") and not c.has_absent and c.name != target.name]
        return [target, *others]
    return [
        column
        for column in free
        if column.name != target.name
        and column.dtype != "time"
        and not (column.dtype == "text" and column.distinct > _MOST_FEATURE_CATEGORIES)
    ]


def _choose_task(target: ColumnProfile) -> tuple[Task, tuple[str, ...]]:
    if target.dtype == "boolean" or (target.dtype == "integer" and target.values in (("0", "1"), ("0",), ("1",))):
        return "binary", ()
    if target.dtype == "text":
        return ("binary" if len(target.values) == 2 else "multiclass"), target.values
    return "regression", ()


def _render(
    name: str,
    seen: Profile,
    columns: Sequence[ColumnProfile],
    target: ColumnProfile,
    kind: Kind,
    features: Sequence[ColumnProfile],
) -> list[str]:
    is_series = kind == "sequence"
    task, classes = ("regression", ()) if is_series else _choose_task(target)
    names = [feature.name for feature in features]
    numbers = [one.name for one in features if one.dtype in ("float", "integer") and not one.has_absent]
    keys = {"entity": seen.entity, "time": seen.time} if seen.time else {"id": seen.id}
    key = ", ".join(f"{part}={_quote(column)}" for part, column in keys.items() if column)
    transform = _quote("last_value" if is_series else "value")
    metric = "mae" if task == "regression" else "log_loss"
    return [
        f'"""Workload `{name}`: proposed from a file; say here what is predicted, and from what."""',
        "",
        "from core.contract import Column, Key, Monitored",
        "from workloads.declaration import GatePolicy, Workload",
        f"from workloads.parameters import {kind.upper()}",
        "",
        "WORKLOAD = Workload(",
        f"    name={_quote(name)},",
        f"    description={_quote(f'{target.name} from {len(names)} columns')},",
        f"    kind={_quote(kind)},",
        f"    task={_quote(task)},",
        *([f"    classes={_quote_all(classes)},"] if classes else []),
        "    # Bounds are those seen in the file, widened by the range between them: set them to what can be true.",
        "    columns=(",
        *(
            f"        {_render_column(one, kind, is_key=one.name in keys.values(), is_feature=one in features)},"
            for one in columns
        ),
        "    ),",
        f"    key=Key({key}),",
        f"    target={_quote(target.name)},",
        f"    features={_quote_all(names)},",
        *(['    steps="sequence_length",'] if is_series else []),
        *([f"    step_s={seen.step_s!r},"] if seen.step_s and seen.time else []),
        *(['    gaps="allow",'] if seen.time else []),
        f'    model="workloads.{kind}_model:build_model",',
        f"    parameters={kind.upper()},",
        "    monitored=(",
        *(f"        Monitored(name={_quote(one)}, column={_quote(one)}, transform={transform})," for one in numbers),
        "    ),",
        f"    gate=GatePolicy(metric={_quote(metric)}),",
        ")",
    ]


def _render_column(column: ColumnProfile, kind: Kind, *, is_key: bool, is_feature: bool) -> str:
    fields = [f"name={_quote(column.name)}", f"dtype={_quote(column.dtype)}"]
    # The key of a row that is still to come lies outside what was seen.
    if not is_key and column.minimum is not None and column.maximum is not None:
        spread = column.maximum - column.minimum
        is_flag = column.dtype == "integer" and (column.minimum, column.maximum) == (0, 1)
        low = column.minimum if is_flag else column.minimum - spread
        high = column.maximum if is_flag else column.maximum + spread
        # What was never negative is taken for a quantity.
        low = max(low, 0) if column.minimum >= 0 else low
        fields += [f"minimum={low:.10g}", f"maximum={high:.10g}"]
    if column.has_absent:
        fields.append("is_nullable=True")
        if is_feature and kind == "tabular" and column.dtype != "text":
            fields.append('imputation="median"')
    return f"Column({', '.join(fields)})"


def _quote(text: str) -> str:
    """The text as it stands in a program."""
    return json.dumps(text, ensure_ascii=False)


def _quote_all(texts: Sequence[str]) -> str:
    quoted = ", ".join(_quote(text) for text in texts)
    return f"({quoted},)" if len(texts) == 1 else f"({quoted})"
