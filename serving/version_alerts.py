"""Alerts of versions that should serve and cannot, told once the database is there to keep them."""

from dataclasses import dataclass

from sqlalchemy import Engine

from core.alerts import Severity, clear_alert, raise_alert

CAUSE = "version"
_TITLE = "A version cannot serve"


@dataclass(frozen=True)
class _Failure:
    """`serving` is the version that answers in its place, if one does."""

    version: int
    reason: str
    serving: int | None

    @property
    def consequence(self) -> str:
        return "nothing serves it" if self.serving is None else f"version {self.serving} keeps serving"


class VersionAlerts:
    """What is to be told of each model: the last failure, or that it is over. Used by one thread.

    Several processes follow the same models. Each tells of its own failures at every attempt, so that one that still
    fails is not forgotten because another has succeeded.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._untold: dict[str, _Failure | str] = {}

    def note_failure(self, model: str, version: int, reason: str, serving: int | None) -> None:
        """The version should serve the model, and cannot."""
        self._untold[model] = _Failure(version, reason, serving)

    def note_end(self, model: str, reason: str) -> None:
        """What should serve the model does, or nothing should."""
        self._untold[model] = reason

    def store(self) -> None:
        """Raise and clear the alerts that were noted; what the database does not take stays noted. Raises its error."""
        for model, told in list(self._untold.items()):
            with self._engine.begin() as connection:
                if isinstance(told, _Failure):
                    severity: Severity = "critical" if told.serving is None else "warning"
                    reasons = [told.reason.removesuffix("."), told.consequence]
                    raise_alert(connection, model, CAUSE, severity, f"{_TITLE}: {told.version}", reasons)
                else:
                    clear_alert(connection, model, CAUSE, told)
            del self._untold[model]
