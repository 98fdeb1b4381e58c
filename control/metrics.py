"""What Prometheus reads of the control plane, at `/metrics`: each model's state, looked up when it is asked."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from fastapi import APIRouter, Depends
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from control.documents import describe_problems
from control.requests import OpenConnections
from core.model_states import ModelState, load_model_states
from core.principals import Role
from core.trainings import TrainingState
from web.principal import require

router = APIRouter(tags=["health"], dependencies=[Depends(require(Role.VIEWER))])

_SEVERITIES = ("info", "warning", "critical")
_STATES: tuple[TrainingState, ...] = ("queued", "running", "finished", "failed", "cancelled")


class ModelCollector(Collector):
    """The states as metrics; one that nobody knows is left out, so that a rule can ask whether it is there."""

    def __init__(self, states: dict[str, ModelState]) -> None:
        self._states = states

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Every family of metrics."""
        yield from self._collect_findings()
        yield self._build(
            "millrace_open_alerts",
            "Alerts that are open",
            "severity",
            lambda state: {severity: state.open_alerts.get(severity, 0) for severity in _SEVERITIES},
        )
        yield self._build(
            "millrace_trainings",
            "Trainings so far and at the moment",
            "state",
            lambda state: {name: state.trainings.get(name, 0) for name in _STATES},
        )
        yield self._build(
            "millrace_requests_recorded",
            "Requests in the prediction log",
            "kind",
            lambda state: {"prediction": state.predictions, "refusal": state.refusals},
        )
        for name, text, find in (
            ("rows_received", "When rows came in last", lambda state: state.rows_received_at),
            ("training_finished", "When a training finished last", lambda state: state.trained_at),
            ("transition_finished", "When the version in Production changed last", lambda state: state.promoted_at),
        ):
            yield self._build_time(f"millrace_{name}_timestamp_seconds", f"{text}, in seconds since 1970", find)

    def _collect_findings(self) -> Iterable[GaugeMetricFamily]:
        labels = ["model", "subject"]
        score = GaugeMetricFamily("millrace_finding_statistic", "What the last check measured", labels=labels)
        threshold = GaugeMetricFamily("millrace_finding_threshold", "What it was compared with", labels=labels)
        rows = GaugeMetricFamily("millrace_finding_rows", "Rows that the last check looked at", labels=labels)
        at = GaugeMetricFamily(
            "millrace_finding_timestamp_seconds", "When the last check was, in seconds since 1970", labels=labels
        )
        outcome = GaugeMetricFamily(
            "millrace_finding_outcome", "1 for what the last check concluded", labels=[*labels, "outcome"]
        )
        for model, state in self._states.items():
            for subject, found in state.subjects.items():
                if found.statistic is not None:
                    score.add_metric([model, subject], found.statistic)
                if found.threshold is not None:
                    threshold.add_metric([model, subject], found.threshold)
                rows.add_metric([model, subject], found.rows)
                at.add_metric([model, subject], found.found_at.timestamp())
                outcome.add_metric([model, subject, found.outcome], 1.0)
        yield from (score, threshold, rows, at, outcome)

    def _build(
        self, name: str, text: str, label: str, find: Callable[[ModelState], Mapping[str, int]]
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=["model", label])
        for model, state in self._states.items():
            for value, count in find(state).items():
                family.add_metric([model, value], count)
        return family

    def _build_time(self, name: str, text: str, find: Callable[[ModelState], datetime | None]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=["model"])
        for model, state in self._states.items():
            at = find(state)
            if at is not None:
                family.add_metric([model], at.timestamp())
        return family


@router.get(
    "/metrics",
    summary="Metrics of every model, for Prometheus",
    response_class=PlainTextResponse,
    responses=describe_problems(),
)
def read_metrics(connections: OpenConnections) -> Response:
    """The state of every declared model, from the database as it is now."""
    with connections.engine.connect() as connection:
        states = load_model_states(connection)
    registry = CollectorRegistry()
    registry.register(ModelCollector(states))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
