"""Typed errors: each takes facts and words its own sentence.

A sentence says what failed, which value was received, what is allowed and what to do next. The classes directly
below `MillraceError` are the categories that `web.problems` maps to HTTP and `cli.main` to exit codes; nothing else
knows about either.
"""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SHOWN_FAULTS = 5

FaultKind = Literal["form", "absent", "type", "bounds", "category", "not_finite"]
"""What sort of fault a refused value has; `form` is one of the request as a whole, and of no column."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one value of the input.

    `where` names the place in the input's own terms ("values[3]", "line 17, column Close"); `value` is what was
    received, shortened; `rule` is what is allowed. `column` and `kind` are what faults are counted by.
    """

    where: str
    value: str
    rule: str
    column: str = ""
    kind: FaultKind = "form"

    def to_document(self) -> dict[str, str]:
        """The fault as a problem document tells it."""
        return {"where": self.where, "value": self.value, "rule": self.rule}

    def __str__(self) -> str:
        return f"{self.where}: {self.value} is not allowed, {self.rule}"


class _Shown(reprlib.Repr):
    """Literal forms whose cost does not grow with the value: a request may bring megabytes, or lists in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 2, 20, 20, 20
        self.maxstring = self.maxother = self.maxlong = 1000

    def repr_int(self, x: int, _level: int) -> str:
        # Python refuses to write out integers of thousands of digits.
        return repr(x) if x.bit_length() < 1000 else f"an integer of {x.bit_length()} bits"

    # These three as JSON and every client of ours spells them.
    def repr_bool(self, x: bool, _level: int) -> str:
        return "true" if x else "false"

    def repr_NoneType(self, _x: None, _level: int) -> str:  # noqa: N802  # reprlib looks for the type's name
        return "null"

    def repr_float(self, x: float, _level: int) -> str:
        return repr(x) if math.isfinite(x) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(x, "NaN")


def show_value(value: object, limit: int = 60) -> str:
    """The value as an error may show it: its JSON-like form, cut to `limit` characters."""
    text = _Shown().repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def show_faults(faults: Sequence[Fault], total: int | None = None) -> str:
    """The first few faults as one text, then how many more there are."""
    count = len(faults) if total is None else total
    shown = "; ".join(str(fault) for fault in faults[:SHOWN_FAULTS])
    rest = count - min(len(faults), SHOWN_FAULTS)
    return shown if rest <= 0 else f"{shown}; and {rest} more"


class MillraceError(Exception):
    """Base of every error that Millrace words itself."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def facts(self) -> dict[str, object]:
        """The facts for a program: what the problem document carries beside the sentence."""
        return {}


# --- categories --------------------------------------------------------------------------------------------------


class InvalidInput(MillraceError):
    """The caller sent something that is not allowed; sending it again will not help."""


class NotFound(MillraceError):
    """The named thing does not exist."""


class Conflict(MillraceError):
    """What was asked contradicts the present state."""


class Unavailable(MillraceError):
    """Something that is needed is away or not ready; the same request may succeed later."""


class StepFailed(MillraceError):
    """A step of the platform's own work could not be completed."""


class SettingsRejected(MillraceError):
    """A setting is missing or unsafe: nothing starts."""


# --- invalid input -----------------------------------------------------------------------------------------------


class RequestRejected(InvalidInput):
    """A request does not fit the contract of the version that would answer it."""

    def __init__(self, model: str, faults: Sequence[Fault]) -> None:
        self.model = model
        self.faults = tuple(faults)
        super().__init__(f"The request does not fit the contract of model {model!r}: {show_faults(self.faults)}.")

    @property
    def counted(self) -> tuple[tuple[str, FaultKind], ...]:
        """Column and kind of the faults, each once."""
        return tuple(sorted({(fault.column, fault.kind) for fault in self.faults}))

    def facts(self) -> dict[str, object]:
        return {"model": self.model, "errors": [fault.to_document() for fault in self.faults]}


class NameRejected(InvalidInput):
    """A name that would become part of a path, a table or an address is not a plain name."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(
            f"{show_value(name)} is not a name for a {what}: allowed are 1 to 63 lower-case letters, digits and "
            "underscores, beginning with a letter."
        )


class ParameterRejected(InvalidInput):
    """A training parameter or option has a value that is not allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        self.name = name
        super().__init__(f"{name}={show_value(value)} is not allowed: {allowed}.")

    def facts(self) -> dict[str, object]:
        return {"parameter": self.name}


# --- not found ---------------------------------------------------------------------------------------------------


class WorkloadNotFound(NotFound):
    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no workload {show_value(name)}; known are {', '.join(known) or 'none'}.")


class ModelNotFound(NotFound):
    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no model {show_value(name)}; known are {', '.join(known) or 'none'}.")


class ModelVersionNotFound(NotFound):
    """A version, version name or stage that was asked for does not exist; never answered by another one."""

    def __init__(self, model: str, wanted: str, existing: Sequence[str]) -> None:
        self.model = model
        self.wanted = wanted
        super().__init__(
            f"Model {model!r} has no version {show_value(wanted)}; existing are {', '.join(existing) or 'none'}."
        )

    def facts(self) -> dict[str, object]:
        return {"model": self.model, "wanted": self.wanted}


class TrainingNotFound(NotFound):
    def __init__(self, training_id: str) -> None:
        super().__init__(f"There is no training {show_value(training_id)}; `millrace status` lists the recent ones.")


class FindingNotFound(NotFound):
    def __init__(self, model: str, finding: str) -> None:
        super().__init__(f"Model {model!r} has no finding {show_value(finding)}.")


class ArtifactNotFound(NotFound):
    """A file that the platform kept is gone from the artifact store."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"The artifact store has no file {show_value(uri, 200)}; it was deleted there.")


class ReportNotFound(NotFound):
    def __init__(self, model: str, finding: str) -> None:
        super().__init__(f"Model {model!r} has no report for finding {show_value(finding)}.")


# --- conflict ----------------------------------------------------------------------------------------------------


class NothingToRollBackTo(Conflict):
    def __init__(self, model: str) -> None:
        super().__init__(
            f"Model {model!r} has no earlier Production version to go back to; `millrace history {model}` shows "
            "what was in Production."
        )


class VersionNameTaken(Conflict):
    """A version name was given before; nothing is ever overwritten."""

    def __init__(self, model: str, name: str) -> None:
        super().__init__(f"Model {model!r} has a version named {show_value(name)} already; choose another name.")


class ChampionChanged(Conflict):
    """A verdict was reached against a champion that has left Production since."""

    def __init__(self, model: str, judged: int | None, present: int | None) -> None:
        was, now = ("no version" if one is None else f"version {one}" for one in (judged, present))
        super().__init__(
            f"A challenger of {model!r} was judged against {was}, but now {now} is in Production; it is judged again."
        )


class VerdictStands(Conflict):
    """A version was to be promoted by hand that something speaks against."""

    def __init__(self, model: str, version: int, objection: str) -> None:
        super().__init__(
            f"Version {version} of {model!r} is not promoted, {objection}. Override it, with the reason: "
            f"`millrace promote {model} {version} --override --reason ...`."
        )


class AttemptSuperseded(Conflict):
    """A training attempt found that a newer attempt owns the training: it must stop without touching anything."""

    def __init__(self, training_id: str, attempt: int, current: int) -> None:
        super().__init__(
            f"Attempt {attempt} of training {training_id} was superseded by attempt {current}; it stops here and "
            "changes nothing more."
        )


class PlatformAlreadyRunning(Conflict):
    def __init__(self, home: str, pid: str) -> None:
        super().__init__(
            f"`millrace up` already runs on {home} (process {pid}); stop it, or set MILLRACE_HOME to another folder."
        )


class PortTaken(Conflict):
    def __init__(self, setting: str, port: int) -> None:
        super().__init__(f"Port {port} is in use by another program; stop that or set {setting} to a free port.")


# --- unavailable -------------------------------------------------------------------------------------------------


class NoProductionVersion(Unavailable):
    def __init__(self, model: str, target: str = "Production") -> None:
        self.model = model
        super().__init__(
            f"Model {model!r} has no version to serve for target {target!r}. Train one with `millrace train {model}`; "
            f"a version that passes the gate is served within two seconds. `millrace status` shows what is running."
        )

    def facts(self) -> dict[str, object]:
        return {"model": self.model}


class VersionNotReady(Unavailable):
    def __init__(self, model: str, version: int, reason: str) -> None:
        super().__init__(f"Version {version} of model {model!r} is not loaded yet: {reason}.")


class DatabaseUnavailable(Unavailable):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"The database at {address} does not answer: {reason}. Start it with `millrace up`, or set DATABASE_URL."
        )


class TrackingUnavailable(Unavailable):
    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"The MLflow tracking server at {address} does not answer: {reason}. Start it with `millrace up` or "
            "`millrace tracking`, or set MLFLOW_TRACKING_URI."
        )


class UpstreamUnavailable(Unavailable):
    def __init__(self, what: str) -> None:
        super().__init__(f"The {what} process does not answer; it is restarted by `millrace up`. Try again shortly.")


# --- steps that failed -------------------------------------------------------------------------------------------


class EmbeddedDatabaseFailed(StepFailed):
    def __init__(self, action: str, reason: str, log: str) -> None:
        super().__init__(f"The embedded PostgreSQL could not {action}: {reason}. Its log: {log}.")


class ProcessNotReady(StepFailed):
    def __init__(self, name: str, timeout_s: float, log: str, last_lines: str) -> None:
        super().__init__(
            f"The process {name} was not ready after {timeout_s:.0f} s. Its log {log} ends with: "
            f"{last_lines or 'nothing'}"
        )


class ExportFailed(StepFailed):
    """A Keras model cannot be written as ONNX."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"The Keras model {model!r} cannot be exported to ONNX: {reason}.")


class ParityFailed(StepFailed):
    """The ONNX export does not compute what the Keras model computes: it is not registered."""

    def __init__(self, largest: float, allowed: float) -> None:
        super().__init__(
            f"The ONNX export differs from the Keras model by up to {largest:.3g} where {allowed:.3g} is allowed; "
            "the version is not registered."
        )


class ReferenceRejected(StepFailed):
    """The training profile that monitoring compares with cannot be built, read, or used for what was counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The reference profile is not usable: {reason}.")


class ReportFailed(StepFailed):
    """The page of a check could not be made; the check's decision stands."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The report could not be written: {reason}. The decision of the check stands.")


class ModelDirectoryRejected(StepFailed):
    """A downloaded or written model version lacks a file, or a file is not what its checksum says."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"The model directory {path} is not usable: {reason}.")


class TrainingFailed(StepFailed):
    def __init__(self, model: str, step: str, reason: str) -> None:
        super().__init__(f"Training of {model!r} failed while it had to {step}: {reason}")


class NotReproduced(StepFailed):
    """A version could not be made again, or came out another."""

    def __init__(self, model: str, version: int, difference: float | None, reasons: Sequence[str]) -> None:
        how = (
            "was not"
            if difference is None
            else f"predicts differently by up to {difference:.3g} of a value, so it was not"
        )
        super().__init__(f"Version {version} of {model!r} {how} reproduced: {'; '.join(reasons)}.")


class DemoStepFailed(StepFailed):
    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"The demo's step {step!r} did not hold: {reason}")


class ExtraMissing(SettingsRejected):
    """An optional part is asked for and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; `pip install 'millrace[{extra}]'` brings it.")


class DeclarationRejected(SettingsRejected):
    """A workload's declaration contradicts itself."""

    def __init__(self, workload: str, fault: str) -> None:
        super().__init__(f"Workload {workload!r} is not declared rightly: {fault}.")
