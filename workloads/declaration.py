"""What a workload declares: its columns, key, target, model, gate, drift and retrain policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from core.contract import Column, Contract, Gaps, Key, Kind, Monitored, Route, build_contract
from core.errors import DeclarationRejected, ParameterRejected
from core.policies import DriftPolicy


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
        is_whole = isinstance(self.default, int)
        allowed = f"a{' whole' if is_whole else ''} number from {self.minimum} to {self.maximum} ({self.description})"
        try:
            number = float(str(value))
        except ValueError:
            raise ParameterRejected(name, value, allowed) from None
        if not self.minimum <= number <= self.maximum or (is_whole and not number.is_integer()):
            raise ParameterRejected(name, value, allowed)
        return int(number) if is_whole else number


@dataclass(frozen=True)
class SplitPolicy:
    """Shares of the rows, in time order: what remains of training, then validation, then the hold-out at the end."""

    validation_share: float = 0.1
    holdout_share: float = 0.1


@dataclass(frozen=True)
class GatePolicy:
    """What a challenger has to show.

    `metric` is the error that decides (lower is better). Margins are shares of the error they are compared with:
    `baseline_margin` of the baseline's, `non_inferiority_margin` of the champion's. `minimum_rows` hold-out rows are
    needed for any comparison; `confidence` is the level of the paired bootstrap interval.
    """

    metric: str = "mae"
    baseline_margin: float = 0.0
    non_inferiority_margin: float = 0.02
    minimum_rows: int = 50
    confidence: float = 0.95


@dataclass(frozen=True)
class Workload:
    """One declared problem.

    `steps` is a number, or the name of the parameter that holds it. `model` and `sample` name functions as
    `module:function`; they are imported when they are needed, because the model's module loads Keras.
    """

    name: str
    description: str
    kind: Kind
    columns: tuple[Column, ...]
    key: Key
    target: str
    features: tuple[str, ...]
    model: str
    sample: str
    parameters: Mapping[str, Parameter]
    steps: int | str = 1
    step_s: float | None = None
    gaps: Gaps = "refuse"
    monitored: tuple[Monitored, ...] = ()
    routes: tuple[Route, ...] = ()
    split: SplitPolicy = field(default_factory=SplitPolicy)
    gate: GatePolicy = field(default_factory=GatePolicy)
    drift: DriftPolicy = field(default_factory=DriftPolicy)

    def resolve_parameters(self, given: Mapping[str, object] | None = None) -> dict[str, int | float]:
        """Every parameter with its value, `given` over the defaults; raises ParameterRejected."""
        given = given or {}
        unknown = sorted(set(given) - set(self.parameters))
        if unknown:
            raise ParameterRejected(unknown[0], given[unknown[0]], f"known are {', '.join(self.parameters)}")
        return {
            name: parameter.check(name, given.get(name, parameter.default))
            for name, parameter in self.parameters.items()
        }

    def build_contract(self, parameters: Mapping[str, int | float] | None = None) -> Contract:
        """The contract of a version trained with these parameters; with none, of the defaults."""
        values = parameters or self.resolve_parameters()
        steps = int(values[self.steps]) if isinstance(self.steps, str) else self.steps
        return build_contract(
            self.name,
            description=self.description,
            kind=self.kind,
            columns=self.columns,
            key=self.key,
            target=self.target,
            features=self.features,
            steps=steps,
            step_s=self.step_s,
            gaps=self.gaps,
            monitored=self.monitored,
            routes=self.routes,
        )

    def load_function(self, which: str) -> Any:
        """The function named by the declaration's `model` or `sample`; raises DeclarationRejected."""
        address = {"model": self.model, "sample": self.sample}[which]
        module, _, name = address.partition(":")
        function = getattr(import_module(module), name, None)
        if not callable(function):
            raise DeclarationRejected(self.name, f"{which}={address!r} names no function")
        return function
