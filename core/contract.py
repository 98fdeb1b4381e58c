"""The contract: what other processes must know of a workload.

It is written to table `workloads` when the platform starts and stored inside every model version as `contract.json`;
serving reads only the version's own copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import DeclarationRejected, NameRejected, show_value
from core.names import check_name
from core.parameters import TrainingParameter

MAX_STEPS = 10_000
RESERVED_ADDRESSES = frozenset(
    {
        *("docs", "health", "metrics", "openapi.json", "ping", "version"),
        *("invocations", "models", "v2"),
        *("alerts", "approvals", "audit", "jobs", "mlflow", "trainings"),
        *("first-administrator", "sign-in", "sign-out", "token", "tokens", "users"),
    }
)
"""First parts of addresses that the platform answers itself; a documented route with one would never be reached."""
MAX_CATEGORIES = 10_000
"""Most categories of one column that a version tells apart."""
MAX_ITEMS = 100_000
"""Most items of a ranking. All of them stand in the contract by name, about 1 MB of JSON at the most."""
MOST_RANKED = 1_000

Dtype = Literal["float", "integer", "text", "boolean", "time"]
Kind = Literal["tabular", "sequence", "ranking"]
Task = Literal["regression", "binary", "multiclass"]
Gaps = Literal["refuse", "allow", "hold"]
Order = Literal["any", "ascending"]
Repeats = Literal["refuse", "keep_first"]
TransformName = Literal["value", "last_value", "last_log_return", "mean_of_history"]


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
    """The only texts that are taken. Without it any text is, and one that training has not seen counts as unknown."""
    imputation: Literal["mean", "median"] | None = None
    """What the model puts in the place of an absent number, of its training part. Without it none may be absent."""
    aliases: tuple[str, ...] = ()
    """Other headings under which files bring this column."""
    time_format: str = ""
    """How files write a column of times, as in %d/%m/%Y; without it they are in ISO form."""
    default: str | None = None
    """Value of every row of an input that lacks the column altogether, as it would stand in a file."""


class Key(_Frozen):
    """What makes a row one observation: (entity, time) for series, else `id`, else the row's hash."""

    entity: str | None = None
    time: str | None = None
    id: str | None = None


class Monitored(_Frozen):
    """One monitored feature: a single number a request, computed from the model's input by a named transform.

    `value` takes the column of a tabular row, `last_value` the last step of a sequence, `last_log_return` the
    logarithm of the last step over the one before; `mean_of_history` the mean over what a user of a ranking has, 0
    where that is nothing.
    """

    name: str
    column: str
    transform: TransformName
    unit: str = ""


class Ranking(_Frozen):
    """How interactions of users with items are ranked.

    The item is the first of the contract's features, the strength of the interaction the second and the target, the
    user `key.entity`. An interaction of at least `liked_from` is one that the model should have foreseen; a weaker one
    still says that the user knows the item. `time` is the column with the interaction's time, where there is one.
    The model answers the best `most` items, none of which the user has.
    """

    liked_from: float
    time: str | None = None
    most: Annotated[int, Field(ge=1, le=MOST_RANKED)] = 100


class Route(_Frozen):
    """A documented route of the workload: a request codec and the names in the answer.

    Codec `values` or `rows` reads the body's member of that name, `row` the body itself as one row by column. A GET
    without one tells of the version that serves; with codec `history` it ranks items for the user in the path,
    `{user}`, and takes `k`, how many, as its query. Codec `observations` takes rows in and answers as
    `/models/{model}/observations` does; codec `training` asks for a training, as `/models/{model}/trainings` does, and
    `role` then is the least that may. A value of `answer` that begins with `$` is filled in: of the version `$model`,
    `$version`, `$version_name`, `$model_uri`, `$variant`, `$features_used`, `$description`, `$steps`; of the prediction
    `$prediction` (a number, several for several outputs), `$prediction_id`, of a classifier `$class` and
    `$probabilities` by class, and of a ranking, in their place, `$user`, `$items`, `$source` (`personal` or `popular`)
    and `$history` (`whole` or `unavailable`). Every other value is answered as it stands.
    """

    path: Annotated[str, Field(pattern=r"^/[a-z0-9_/{}-]{1,120}$")]
    method: Literal["GET", "POST"] = "POST"
    codec: Literal["values", "rows", "row", "history", "observations", "training"] | None = None
    role: Literal["viewer", "operator", "administrator"] | None = None
    answer: dict[str, str | int | float | bool | tuple[str, ...] | None] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "Route":
        if self.path.split("/")[1] in RESERVED_ADDRESSES:
            raise ValueError(f"{self.path} begins as an address of the platform's own does: /{self.path.split('/')[1]}")
        if (self.method == "GET") != (self.codec in (None, "history")):
            raise ValueError(f"{self.path} needs a codec where it is a POST, and none or history where it is a GET")
        if self.role is not None and self.codec != "training":
            raise ValueError(f"{self.path} has a role, which only codec training takes")
        if (self.codec == "history") != ("{user}" in self.path.split("/")):
            raise ValueError(
                f"{self.path} needs {{user}} as one part of its path where its codec is history, only there"
            )
        return self


@dataclass(frozen=True, eq=False)
class InputBounds:
    """The least and the largest value of each number of one row of the input, `(steps * features,)` or `(features,)`;
    float32's own where none is declared.

    Compared by identity: contracts that remember theirs are compared by their fields.
    """

    least: NDArray[np.float64]
    most: NDArray[np.float64]


class Contract(_Frozen):
    """Columns, shapes and routes of one workload.

    The model takes `(batch, steps, features)` float32 in raw units for a sequence (features in the order of
    `features`), `(batch, features)` for a tabular workload, and answers `(batch, outputs)`: values in the target's
    unit, one for each step ahead; the probability of the second of two classes; or one probability a class.

    A ranking's model takes `(batch, steps, 2)`: up to `steps` items of one user, oldest first, each with its code and
    the strength of the interaction, and zeros where there are fewer. It answers `(batch, 2 · most)`: codes of items,
    best first, then their scores; code and score 0 where there are no more.
    """

    format_version: Literal[1] = 1
    model: Annotated[str, AfterValidator(lambda name: check_name("model", name))]
    description: str
    kind: Kind
    columns: tuple[Column, ...]
    key: Key
    target: str
    features: tuple[str, ...]
    task: Task = "regression"
    classes: tuple[str, ...] = ()
    """The target's values in the order of the outputs; of two the second is what the probability is of."""
    vocabularies: dict[str, tuple[str, ...]] = {}
    """Learnt with a version: the categories of each text feature, or the items of a ranking. Codes begin at 1."""
    target_mean: float | None = None
    target_deviation: float | None = None
    """Learnt with a version: mean and deviation of a regression's target in the training part."""
    variant: str = ""
    """Which of the workload's variants a version is."""
    version_name: str = ""
    horizon: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 1
    """How many steps ahead a sequence is predicted; the model answers all of them."""
    season: Annotated[int, Field(ge=1)] | None = None
    """Steps of one season of a series, where it has one; for the seasonal naive baseline."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 1
    step_s: float | None = None
    """Length of one step of a series in seconds, where it is regular."""
    gaps: Gaps = "refuse"
    """What becomes of missing steps of a regular series.

    `refuse` refuses a file after which there would be any. `allow` and `hold` store the rows and report the gaps; with
    `hold`, missing steps take the values of the row before when a snapshot is cut. Filled rows are never stored as
    observations. (A line to the row after the gap would tell a window its own future.)
    """
    longest_fill: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 100
    """Steps of one gap that are filled at most; a longer gap stays as it is."""
    order: Order = "any"
    """Whether the times of one entity must not step back within one file or batch."""
    retention_days: Annotated[int, Field(ge=1)] | None = None
    """How long observations are kept by their time; without it for ever. Older rows are refused."""
    repeats: Repeats = "refuse"
    """What becomes of a file that has other values under a key for the second time: it is refused, or its first row
    under the key is stored and the later ones are rejected, each alone."""
    ranking: Ranking | None = None
    monitored: tuple[Monitored, ...] = ()
    routes: tuple[Route, ...] = ()
    parameters: tuple[TrainingParameter, ...] = ()
    """What may be set for a training."""

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
            if column.time_format and column.dtype != "time":
                raise ValueError(f"{column.name!r} has a time_format but is of type {column.dtype}")
            if column.minimum is not None and column.maximum is not None and not column.minimum <= column.maximum:
                raise ValueError(f"{column.name!r} has minimum {column.minimum:g} above maximum {column.maximum:g}")
        for monitored in self.monitored:
            self._check_monitored(monitored)
        self._check_task()
        self._check_ranking()
        for name in self.features:
            self._check_feature(self.column(name))
        if self.kind == "sequence" and self.key.time is None:
            raise ValueError("a sequence needs key.time")
        if self.key.time is None and (self.order != "any" or self.retention_days is not None):
            raise ValueError("order and retention_days need key.time")
        if self.step_s is None and self.gaps == "hold":
            raise ValueError("gaps 'hold' needs step_s")
        if self.kind == "sequence" and self.steps < 2:
            raise ValueError(f"a sequence needs at least 2 steps, not {self.steps}")
        return self

    def _check_task(self) -> None:
        target = self.column(self.target)
        if self.kind == "tabular" and self.target in self.features:
            raise ValueError(f"the target {self.target!r} is among the features")
        if self.kind == "sequence" and self.task != "regression":
            raise ValueError(f"a sequence has the task regression, not {self.task}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes has a name twice: {list(self.classes)}")
        if self.kind == "tabular" and target.is_nullable:
            raise ValueError(f"the target {self.target!r} may not be absent")
        sizes = {"regression": (0,), "binary": (0, 2)}.get(self.task)
        if sizes is not None and len(self.classes) not in sizes:
            raise ValueError(f"task {self.task} takes {' or '.join(map(str, sizes))} classes, not {len(self.classes)}")
        if sizes is None and len(self.classes) < 2:
            raise ValueError("task multiclass needs at least 2 classes")
        if self.kind != "ranking" and not self.classes and target.dtype in ("text", "time"):
            raise ValueError(f"the target {self.target!r} is {target.dtype}: it needs classes")

    def _check_ranking(self) -> None:
        if (self.kind == "ranking") != (self.ranking is not None):
            raise ValueError(f"a {self.kind} {'needs' if self.kind == 'ranking' else 'has no'} ranking")
        if self.ranking is None:
            if any(route.codec == "history" for route in self.routes):
                raise ValueError(f"a {self.kind} has no route with codec history")
            return
        if self.key.entity is None or self.key.time is not None:
            raise ValueError("a ranking needs key.entity, the user, and has no key.time")
        if len(self.features) != 2 or self.features[1] != self.target:
            raise ValueError(f"a ranking's features are the item and the target, not {list(self.features)}")
        for name in (self.key.entity, self.features[0]):
            if self.column(name).dtype not in ("text", "integer"):
                raise ValueError(f"{name!r} is {self.column(name).dtype}; users and items are text or integer")
        if self.column(self.target).dtype not in ("float", "integer") or self.column(self.target).is_nullable:
            raise ValueError(f"the target {self.target!r} must be a number that may not be absent")
        time = self.ranking.time
        if time is not None and (time not in {c.name for c in self.columns} or self.column(time).dtype != "time"):
            raise ValueError(f"ranking.time {time!r} is no column with a time")
        if any(len(names) > MAX_ITEMS for names in self.vocabularies.values()):
            raise ValueError(f"a ranking has at most {MAX_ITEMS} items")

    def _check_feature(self, column: Column) -> None:
        if self.kind == "ranking":
            return
        allowed = ("float", "integer") if self.kind == "sequence" else ("float", "integer", "boolean", "text")
        if column.dtype not in allowed:
            raise ValueError(f"feature {column.name!r} is {column.dtype}; a {self.kind} takes {', '.join(allowed)}")
        if column.imputation is not None and (self.kind == "sequence" or column.dtype == "text"):
            raise ValueError(f"feature {column.name!r}: only numbers of a tabular workload are imputed")
        if column.is_nullable and column.dtype != "text" and column.imputation is None:
            raise ValueError(f"feature {column.name!r} may be absent: declare its imputation, or refuse absent values")

    def _check_monitored(self, monitored: Monitored) -> None:
        if monitored.name == "prediction":
            raise ValueError("monitored 'prediction' is the name under which the model's answers are counted")
        if monitored.column not in self.features:
            raise ValueError(f"monitored {monitored.name!r} is of {monitored.column!r}, which is none of the features")
        if self.column(monitored.column).imputation is not None:
            raise ValueError(f"monitored {monitored.name!r}: a column that may be absent is not monitored")
        transforms = {"tabular": ("value",), "ranking": ("mean_of_history",)}
        if monitored.transform not in transforms.get(self.kind, ("last_value", "last_log_return")):
            raise ValueError(f"monitored {monitored.name!r}: a {self.kind} has no {monitored.transform!r}")
        if monitored.transform == "last_log_return" and not (self.column(monitored.column).minimum or 0.0) > 0.0:
            raise ValueError(f"monitored {monitored.name!r} needs a minimum above 0 for {monitored.column!r}")

    def column(self, name: str) -> Column:
        """The column of that name; it is there for every name that the contract itself uses."""
        return next(column for column in self.columns if column.name == name)

    @cached_property
    def has_plain_features(self) -> bool:
        """Whether every feature takes any number within its bounds, so that whole arrays of them can be judged."""
        return all(self.column(name).dtype == "float" for name in self.features)

    @cached_property
    def input_bounds(self) -> InputBounds:
        """What one row of the model's input may hold."""
        largest = float(np.finfo(np.float32).max)
        columns = [self.column(name) for name in self.features]
        least = [-largest if c.minimum is None else max(c.minimum, -largest) for c in columns]
        most = [largest if c.maximum is None else min(c.maximum, largest) for c in columns]
        steps = self.steps if self.kind == "sequence" else 1
        return InputBounds(np.tile(least, steps), np.tile(most, steps))

    @cached_property
    def monitored_positions(self) -> NDArray[np.intp] | None:
        """Places of the monitored features in a row, or in a window's last row; None where one is computed."""
        plain = "last_value" if self.kind == "sequence" else "value"
        if any(monitored.transform != plain for monitored in self.monitored):
            return None
        return np.array([self.features.index(monitored.column) for monitored in self.monitored], dtype=np.intp)

    @cached_property
    def codes(self) -> Mapping[str, Mapping[str, int]]:
        """The code of each known category, by text feature or item column; none for the declared contract."""
        return {
            name: {category: code for code, category in enumerate(self.vocabularies.get(name, ()), start=1)}
            for name in self.features
            if self.column(name).dtype == "text" or name in self.vocabularies
        }

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row of the model's input, without the batch: `(steps, features)` or `(features,)`."""
        if self.kind in ("sequence", "ranking"):
            return (self.steps, len(self.features))
        return (len(self.features),)

    @property
    def outputs(self) -> int:
        """How many numbers the model answers for one row: steps, probabilities of classes, items and scores, or one."""
        if self.ranking is not None:
            return 2 * self.ranking.most
        if self.task == "multiclass":
            return len(self.classes)
        return self.horizon if self.kind == "sequence" else 1


def build_contract(workload: str, **fields: object) -> Contract:
    """The contract with those fields; raises DeclarationRejected in terms of the declaration."""
    try:
        return Contract.model_validate({"model": workload, **fields})
    except NameRejected as error:
        raise DeclarationRejected(workload, error.sentence.removesuffix(".")) from None
    except ValidationError as error:
        raise DeclarationRejected(workload, word_error(error)) from None


def word_error(error: ValidationError) -> str:
    """The first fault that a declaration has, with its place and, where that is one value, the value."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if isinstance(first["input"], str | int | float):
        place = f"{place}={show_value(first['input'])}"
    return f"{place}: {message}" if place else message
