"""What a workload declares: its columns, key, target, model, gate, drift and retrain policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from core.contract import (
    Column,
    Contract,
    Gaps,
    Key,
    Kind,
    Monitored,
    Order,
    Ranking,
    Repeats,
    Route,
    Task,
    build_contract,
)
from core.errors import DeclarationRejected, ParameterRejected
from core.parameters import TrainingParameter, check_parameters
from core.policies import AlertPolicy, DriftPolicy, Limits, ProbationPolicy
from core.principals import Role
from core.schedules import CRON_FIELDS, check_time_zone

FIT_PARAMETERS = ("max_epochs", "patience", "batch_size", "seed")
"""Parameters of every workload, which say how a network is fitted and not what it is."""


@dataclass(frozen=True)
class Parameter:
    """One training parameter: its default and the bounds (inclusive) that a run may use.

    `search` are the narrower bounds that tuning looks in; without it those of the run.
    """

    default: int | float
    minimum: int | float
    maximum: int | float
    description: str
    search: tuple[int | float, int | float] | None = None

    def check(self, name: str, value: object) -> int | float:
        """The value in the parameter's own type; raises ParameterRejected."""
        return self.describe(name).check(value)

    def describe(self, name: str) -> TrainingParameter:
        """What other processes know of it."""
        return TrainingParameter(
            name=name,
            default=self.default,
            minimum=self.minimum,
            maximum=self.maximum,
            description=self.description,
        )


@dataclass(frozen=True)
class SplitPolicy:
    """Shares of the rows: what remains trains, then validation, then the hold-out at the end.

    In time order where rows have a time, else by the hash of their key.
    """

    validation_share: float = 0.1
    holdout_share: float = 0.1
    start: float = 0.0
    """Where the hold-out begins in the range of hashes, 0 to 1; tuning moves it to get other folds."""


@dataclass(frozen=True)
class Slice:
    """A scenario that is looked at by itself: the rows whose `column`, a feature or the entity, has one of `values`,
    or lies from `minimum` to `maximum` (inclusive).

    A challenger's error on it may exceed the champion's by the share `margin`; fewer than `minimum_rows` hold-out rows
    say nothing.
    """

    name: str
    column: str
    values: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    margin: float = 0.1
    minimum_rows: int = 30


@dataclass(frozen=True)
class GatePolicy:
    """What a challenger has to show.

    `metric` is the error that decides (lower is better): `mae`, `rmse` or `mape` of a regression, `log_loss` or
    `brier` of a classifier, `ndcg_loss` of a ranking. Margins are shares of the error they are compared with:
    `baseline_margin` of the baseline's, `non_inferiority_margin` of the champion's. `minimum_rows` hold-out rows are
    needed for any comparison; `confidence` is the level of the paired bootstrap interval.

    The newest row of the snapshot may be `maximum_age_h` hours old, without it of any age. Budgets are for what the
    service runs: one row through ONNX Runtime on one thread, and the size of the ONNX file in millions of bytes.
    """

    metric: str = "mae"
    baseline_margin: float = 0.0
    non_inferiority_margin: float = 0.02
    minimum_rows: int = 50
    confidence: float = 0.95
    maximum_age_h: float | None = None
    maximum_latency_ms: float = 50.0
    maximum_size_mb: float = 256.0


_METRICS: Mapping[Task, tuple[str, ...]] = {
    "regression": ("mae", "rmse", "mape"),
    "binary": ("log_loss", "brier"),
    "multiclass": ("log_loss", "brier"),
}


@dataclass(frozen=True)
class Schedule:
    """When a workload is trained by the clock: `cron` has five fields, in wall-clock time of `time_zone`.

    A time that the clocks leave out when they are put forward is due as much later; one that comes twice, once.
    """

    cron: str
    time_zone: str = "UTC"

    @property
    def text(self) -> str:
        """Both in one, as they are recorded."""
        return f"{self.cron} {self.time_zone}"

    def check(self, workload: str) -> None:
        """Raise DeclarationRejected where it names no time, or no time zone."""
        # The catalogue is read by commands too, which do without the worker's packages.
        from croniter import CroniterError, croniter

        if len(self.cron.split()) != CRON_FIELDS:
            raise DeclarationRejected(workload, f"schedule {self.text!r}: five fields are expected, as in 0 0 * * *")
        try:
            check_time_zone(self.time_zone)
            croniter(self.cron).get_prev()
        except (ValueError, CroniterError) as error:
            raise DeclarationRejected(workload, f"schedule {self.text!r}: {error}") from None


@dataclass(frozen=True)
class PulledSource:
    """Rows that are fetched from outside by a schedule, where a setting turns that on.

    `address` is an HTTP(S) address of CSV, JSON or any other form of file for kind `http`, and the instrument's
    symbol for kind `yfinance`. `cron` has five fields, in wall-clock time of `time_zone`.
    """

    name: str
    kind: Literal["http", "yfinance"]
    address: str
    cron: str
    time_zone: str = "UTC"


@dataclass(frozen=True)
class Subscription:
    """MQTT messages that bring rows, one message a row.

    `topic` has levels by name in braces, which become columns of the row: `telemetry/{machine}/temperature`. The
    payload is one of three: "object", a JSON object whose members are columns; "array", a JSON array with the values
    of `columns` in their order; "value", the one value of the one column in `columns`, as text.

    With `time_from="arrival"` the row's time is when its message arrived, cut down to whole steps of the series, so
    that a message which the broker delivers again is the same row.

    With `brings="outcomes"` a message is an outcome instead: its columns are those of the key and the target, or
    `prediction_id`, the target and, of several steps ahead, `step`.
    """

    topic: str
    payload: Literal["object", "array", "value"] = "object"
    columns: tuple[str, ...] = ()
    time_from: Literal["payload", "arrival"] = "payload"
    brings: Literal["observations", "outcomes"] = "observations"

    @property
    def levels(self) -> tuple[str | None, ...]:
        """For each level of the topic the column that it names, None for a fixed one."""
        return tuple(
            level[1:-1] if level.startswith("{") and level.endswith("}") else None for level in self.topic.split("/")
        )

    @property
    def topic_filter(self) -> str:
        """The filter to subscribe to: every named level is any one level."""
        levels = zip(self.topic.split("/"), self.levels, strict=True)
        return "/".join(level if column is None else "+" for level, column in levels)

    def check(self, contract: Contract) -> None:
        """Raise DeclarationRejected where the contract or MQTT does not allow it."""
        fixed = [level for level, column in zip(self.topic.split("/"), self.levels, strict=True) if column is None]
        if not self.topic or self.topic.startswith("$") or any(mark in level for level in fixed for mark in "+#{}\0"):
            raise DeclarationRejected(
                contract.model, f"topic={self.topic!r} is no topic; levels are plain or one column in braces"
            )
        columns = [*(column for column in self.levels if column), *self.columns]
        known = {column.name for column in contract.columns}
        if self.brings == "outcomes":
            key = contract.key
            known = {"prediction_id", "step", contract.target, *(one for one in (key.entity, key.time, key.id) if one)}
            if contract.kind == "ranking" or self.time_from == "arrival":
                raise DeclarationRejected(
                    contract.model, f"topic={self.topic!r}: no outcomes of a ranking, nor by the time of arrival"
                )
        if unknown := sorted(set(columns) - known):
            raise DeclarationRejected(contract.model, f"topic={self.topic!r}: {unknown} is none of the columns")
        if len(set(columns)) != len(columns):
            raise DeclarationRejected(contract.model, f"topic={self.topic!r} names a column twice: {columns}")
        wanted = {"object": self.columns == (), "array": len(self.columns) > 0, "value": len(self.columns) == 1}
        if not wanted[self.payload]:
            raise DeclarationRejected(
                contract.model,
                f"topic={self.topic!r}: payload {self.payload!r} with columns={self.columns!r}; an object names its "
                "columns itself, an array needs them in order, a value needs one",
            )
        if self.time_from == "arrival" and (contract.key.time is None or contract.step_s is None):
            raise DeclarationRejected(
                contract.model, f"topic={self.topic!r}: time_from='arrival' needs a time and step_s"
            )
        if self.time_from == "arrival" and contract.key.time in columns:
            raise DeclarationRejected(
                contract.model, f"topic={self.topic!r}: the time comes from the message and its arrival"
            )


@dataclass(frozen=True)
class Workload:
    """One declared problem.

    `steps` is a number, or the name of the parameter that holds it. `variants` are other sets of features by name,
    each of which every training tries; `features` is one of them, or all there is. `model` and `sample` name functions
    as `module:function`; they are imported when they are needed, because the model's module loads Keras. With
    `approver` a version that the gate let pass waits until that role, or one above it, approves.
    """

    name: str
    description: str
    kind: Kind
    columns: tuple[Column, ...]
    key: Key
    target: str
    features: tuple[str, ...]
    model: str
    parameters: Mapping[str, Parameter]
    task: Task = "regression"
    classes: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    steps: int | str = 1
    horizon: int = 1
    season: int | None = None
    step_s: float | None = None
    gaps: Gaps = "refuse"
    longest_fill: int = 100
    order: Order = "any"
    retention_days: int | None = None
    repeats: Repeats = "refuse"
    ranking: Ranking | None = None
    monitored: tuple[Monitored, ...] = ()
    routes: tuple[Route, ...] = ()
    pulled: tuple[PulledSource, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    slices: tuple[Slice, ...] = ()
    schedule: Schedule | None = None
    sample: str | None = None
    split: SplitPolicy = field(default_factory=SplitPolicy)
    gate: GatePolicy = field(default_factory=GatePolicy)
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    alerts: AlertPolicy = field(default_factory=AlertPolicy)
    probation: ProbationPolicy = field(default_factory=ProbationPolicy)
    approver: Role | None = None
    limits: Limits = field(default_factory=Limits)

    def resolve_parameters(self, given: Mapping[str, object] | None = None) -> dict[str, int | float]:
        """Every parameter with its value, `given` over the defaults; raises ParameterRejected."""
        checked = check_parameters(self._describe_parameters(), given or {})
        return {name: checked.get(name, parameter.default) for name, parameter in self.parameters.items()}

    def _describe_parameters(self) -> tuple[TrainingParameter, ...]:
        return tuple(parameter.describe(name) for name, parameter in self.parameters.items())

    def build_contract(self, parameters: Mapping[str, int | float] | None = None, variant: str = "") -> Contract:
        """The contract of a version of that variant, trained with these parameters; with none, of the defaults.

        Raises ParameterRejected for an unknown variant, DeclarationRejected where the declaration contradicts itself.
        """
        if variant and variant not in self.variants:
            raise ParameterRejected("variant", variant, f"known are {', '.join(self.variants) or 'none'}")
        values = parameters or self.resolve_parameters()
        self._check_slices()
        steps = int(values[self.steps]) if isinstance(self.steps, str) else self.steps
        contract = build_contract(
            self.name,
            description=self.description,
            kind=self.kind,
            columns=self.columns,
            key=self.key,
            target=self.target,
            features=self.variants[variant] if variant else self.features,
            variant=variant,
            task=self.task,
            classes=self.classes,
            steps=steps,
            horizon=self.horizon,
            season=self.season,
            step_s=self.step_s,
            gaps=self.gaps,
            longest_fill=self.longest_fill,
            order=self.order,
            retention_days=self.retention_days,
            repeats=self.repeats,
            ranking=self.ranking,
            monitored=self.monitored,
            routes=self.routes,
            parameters=self._describe_parameters(),
        )
        for subscription in self.subscriptions:
            subscription.check(contract)
        return contract

    def _check_slices(self) -> None:
        columns = {column.name: column.dtype for column in self.columns}
        for chosen in self.slices:
            features = [self.features, *self.variants.values()]
            if chosen.column != self.key.entity and not all(chosen.column in names for names in features):
                raise DeclarationRejected(
                    self.name,
                    f"slice {chosen.name!r} is of {chosen.column!r}, which is neither a feature of every variant nor "
                    "the entity",
                )
            if self.kind == "ranking" and chosen.column != self.key.entity:
                raise DeclarationRejected(self.name, f"slice {chosen.name!r}: a ranking has slices of the user alone")
            if bool(chosen.values) == (chosen.minimum is not None or chosen.maximum is not None):
                raise DeclarationRejected(self.name, f"slice {chosen.name!r} needs either values or bounds")
            is_text = columns.get(chosen.column) == "text"
            takes_values = is_text or chosen.column == self.key.entity
            takes_bounds = not is_text and chosen.column in self.features
            if not (takes_values if chosen.values else takes_bounds):
                raise DeclarationRejected(
                    self.name, f"slice {chosen.name!r}: a text or the entity takes values, a number takes bounds"
                )
            if chosen.margin < 0 or chosen.minimum_rows < 1:
                raise DeclarationRejected(self.name, f"slice {chosen.name!r} needs a margin from 0 and at least 1 row")

    def check(self) -> None:
        """Check all of the declaration, its variants and the policies too; raises DeclarationRejected."""
        for name, parameter in self.parameters.items():
            low, high = parameter.search or (parameter.minimum, parameter.maximum)
            if not parameter.minimum <= parameter.default <= parameter.maximum:
                raise DeclarationRejected(self.name, f"parameter {name!r} has a default outside its bounds")
            if not parameter.minimum <= low <= high <= parameter.maximum:
                raise DeclarationRejected(self.name, f"parameter {name!r} is searched outside its bounds")
        for needed in FIT_PARAMETERS:
            if needed not in self.parameters:
                raise DeclarationRejected(self.name, f"parameter {needed!r} is missing; every training reads it")
        if isinstance(self.steps, str) and self.steps not in self.parameters:
            raise DeclarationRejected(self.name, f"steps={self.steps!r} is none of the parameters")
        for variant in self.variants or [""]:
            self.build_contract(variant=variant)
        shares = (self.split.validation_share, self.split.holdout_share)
        if min(shares) <= 0 or sum(shares) >= 1:
            raise DeclarationRejected(self.name, f"split has the shares {shares}; each is above 0, both below 1")
        self._check_gate()
        if self.approver is Role.VIEWER:
            raise DeclarationRejected(self.name, "approver is a viewer, who reads; operator or administrator is needed")
        if self.schedule is not None:
            self.schedule.check(self.name)
        for which in ("model", "sample"):
            if which == "model" or self.sample is not None:
                self.load_function(which)

    def _check_gate(self) -> None:
        gate = self.gate
        what, metrics = (self.kind, ("ndcg_loss",)) if self.kind == "ranking" else (self.task, _METRICS[self.task])
        if gate.metric not in metrics:
            raise DeclarationRejected(
                self.name,
                f"gate.metric={gate.metric!r} cannot decide a {what}; allowed are {', '.join(metrics)}",
            )
        if not 0 < gate.confidence < 1:
            raise DeclarationRejected(self.name, f"gate.confidence={gate.confidence} is not between 0 and 1")
        if min(gate.baseline_margin, gate.non_inferiority_margin) < 0 or gate.minimum_rows < 1:
            raise DeclarationRejected(self.name, "gate needs margins from 0 and at least 1 row")

    def load_function(self, which: str) -> Any:
        """The function named by the declaration's `model` or `sample`; raises DeclarationRejected."""
        address = {"model": self.model, "sample": self.sample}[which]
        if address is None:
            raise DeclarationRejected(self.name, f"it has no {which}")
        module, _, name = address.partition(":")
        try:
            function = getattr(import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            raise DeclarationRejected(self.name, f"{which}={address!r} names no module") from error
        if not callable(function):
            raise DeclarationRejected(self.name, f"{which}={address!r} names no function")
        return function
