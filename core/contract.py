"""The contract: what other processes must know of a workload.

It is written to table `workloads` when the platform starts and stored inside every model version as `contract.json`;
serving reads only the version's own copy.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import DeclarationRejected, NameRejected
from core.names import check_name

MAX_STEPS = 10_000

Dtype = Literal["float", "integer", "text", "boolean", "time"]
Kind = Literal["tabular", "sequence", "ranking"]
Gaps = Literal["refuse", "allow"]
TransformName = Literal["value", "last_value", "last_log_return"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Column(_Frozen):
    """One column of a workload's rows; `unit` is in words ("USD", "h"), bounds are inclusive and in that unit."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_ .\[\]/%-]{0,62}$")]
    dtype: Dtype
    unit: str = ""
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    is_nullable: bool = False
    allowed: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Other headings under which files bring this column."""


class Key(_Frozen):
    """What makes a row one observation: (entity, time) for series, else `id`, else the row's hash."""

    entity: str | None = None
    time: str | None = None
    id: str | None = None


class Monitored(_Frozen):
    """One monitored feature: a single number a request, computed from the model's input by a named transform.

    `value` takes the column of a tabular row, `last_value` the last step of a sequence, `last_log_return` the
    logarithm of the last step over the one before.
    """

    name: str
    column: str
    transform: TransformName
    unit: str = ""


class Route(_Frozen):
    """A documented route of the workload: a request codec and the names in the answer.

    A value of `answer` that begins with `$` is filled in from the prediction (`$prediction`, `$model_uri`, `$steps`,
    `$model`, `$version`, `$prediction_id`); every other value is answered as it stands.
    """

    path: Annotated[str, Field(pattern=r"^/[a-z0-9_/{}-]{1,120}$")]
    method: Literal["POST"] = "POST"
    codec: Literal["values", "rows"]
    answer: dict[str, str | int | float | bool | tuple[str, ...] | None]


class Contract(_Frozen):
    """Columns, shapes and routes of one workload.

    The model takes `(batch, steps, features)` float32 in raw units for a sequence (features in the order of
    `features`), `(batch, features)` for a tabular workload, and answers `(batch, outputs)` in the target's unit.
    """

    format_version: Literal[1] = 1
    model: Annotated[str, AfterValidator(lambda name: check_name("model", name))]
    description: str
    kind: Kind
    columns: tuple[Column, ...]
    key: Key
    target: str
    features: tuple[str, ...]
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 1
    step_s: float | None = None
    """Length of one step of a series in seconds, where it is regular."""
    gaps: Gaps = "refuse"
    """What becomes of a file after which a regular series would miss steps: refused, or stored and reported."""
    monitored: tuple[Monitored, ...] = ()
    routes: tuple[Route, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Contract":
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"columns has a name twice: {names}")
        key = (self.key.entity, self.key.time, self.key.id)
        used = [self.target, *self.features, *(name for name in key if name), *(m.column for m in self.monitored)]
        missing = sorted(set(used) - set(names))
        if missing:
            raise ValueError(f"{missing} is used but is not among the columns {names}")
        for column in self.columns:
            if column.minimum is not None and column.maximum is not None and not column.minimum <= column.maximum:
                raise ValueError(f"{column.name!r} has minimum {column.minimum:g} above maximum {column.maximum:g}")
        for monitored in self.monitored:
            self._check_monitored(monitored)
        if self.kind == "sequence" and self.key.time is None:
            raise ValueError("a sequence needs key.time")
        if self.kind == "sequence" and self.steps < 2:
            raise ValueError(f"a sequence needs at least 2 steps, not {self.steps}")
        return self

    def _check_monitored(self, monitored: Monitored) -> None:
        if monitored.column not in self.features:
            raise ValueError(f"monitored {monitored.name!r} is of {monitored.column!r}, which is none of the features")
        if (monitored.transform == "value") == (self.kind == "sequence"):
            raise ValueError(f"monitored {monitored.name!r}: a {self.kind} has no {monitored.transform!r}")
        if monitored.transform == "last_log_return" and not (self.column(monitored.column).minimum or 0.0) > 0.0:
            raise ValueError(f"monitored {monitored.name!r} needs a minimum above 0 for {monitored.column!r}")

    def column(self, name: str) -> Column:
        """The column of that name; it is there for every name that the contract itself uses."""
        return next(column for column in self.columns if column.name == name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row of the model's input, without the batch: `(steps, features)` or `(features,)`."""
        if self.kind == "sequence":
            return (self.steps, len(self.features))
        return (len(self.features),)


def build_contract(workload: str, **fields: object) -> Contract:
    """The contract with those fields; raises DeclarationRejected in terms of the declaration."""
    try:
        return Contract.model_validate({"model": workload, **fields})
    except NameRejected as error:
        raise DeclarationRejected(workload, error.sentence.removesuffix(".")) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise DeclarationRejected(workload, f"{place}: {message}" if place else message) from None
