"""Training parameters as every process knows them: what may be set, within which bounds, and by which field."""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from core.errors import ParameterRejected

UPLOAD_FIELDS: Mapping[str, str] = {"epochs": "max_epochs", "batch_size": "batch_size"}
"""Fields that come with a file to train on, and the training parameter that each sets."""


class TrainingParameter(BaseModel):
    """One parameter that a training takes; bounds are inclusive, and a whole default asks for a whole value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    default: int | float
    minimum: int | float
    maximum: int | float
    description: str = ""

    def check(self, value: object, given_as: str | None = None) -> int | float:
        """The value in the parameter's own type; raises ParameterRejected, which names it as `given_as`."""
        is_whole = isinstance(self.default, int)
        allowed = f"a{' whole' if is_whole else ''} number from {self.minimum} to {self.maximum} ({self.description})"
        try:
            number = float(str(value))
        except ValueError:
            raise ParameterRejected(given_as or self.name, value, allowed) from None
        if not self.minimum <= number <= self.maximum or (is_whole and not number.is_integer()):
            raise ParameterRejected(given_as or self.name, value, allowed)
        return int(number) if is_whole else number


def check_parameters(known: Iterable[TrainingParameter], given: Mapping[str, object]) -> dict[str, int | float]:
    """The given values in their parameters' own types; raises ParameterRejected."""
    by_name = {parameter.name: parameter for parameter in known}
    for name, value in given.items():
        if name not in by_name:
            raise ParameterRejected(name, value, f"known are {', '.join(by_name)}")
    return {name: by_name[name].check(value) for name, value in given.items()}


def read_upload_fields(known: Iterable[TrainingParameter], given: Mapping[str, str]) -> dict[str, int | float]:
    """The training parameters that the fields of an upload set, by UPLOAD_FIELDS; raises ParameterRejected."""
    by_name = {parameter.name: parameter for parameter in known}
    values: dict[str, int | float] = {}
    for field, value in given.items():
        name = UPLOAD_FIELDS[field]
        if name not in by_name:
            raise ParameterRejected(field, value, f"nothing: the model has no parameter {name}; leave {field} out")
        values[name] = by_name[name].check(value, field)
    return values
