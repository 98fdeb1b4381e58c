"""From an answered request to the metrics, and the route that Prometheus reads them from."""

from fastapi import Depends, FastAPI
from starlette.responses import Response
from starlette.types import Scope

from core.principals import Role
from serving.journal import Journal
from serving.metrics import CONTENT_TYPE, Metrics
from web.principal import require
from web.problems import Observe, find_error_kind

_MODEL_KEY = "millrace.model"


def note_model(scope: Scope, model: str) -> None:
    """Note which model the request is about. A name from a request that no model has must not become a label."""
    scope[_MODEL_KEY] = model


def build_observe(metrics: Metrics) -> Observe:
    """What counts every answer."""

    def observe(scope: Scope, status: int, seconds: float) -> None:
        model = scope.get(_MODEL_KEY, "")
        metrics.observe_request(model, status, seconds)
        if status >= 400:
            metrics.count_error(model, find_error_kind(scope) or f"http-{status}")

    return observe


def add_metrics_route(app: FastAPI, metrics: Metrics, journal: Journal) -> None:
    """Add `GET /metrics`."""

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Metrics of this machine's serving processes, for Prometheus",
        dependencies=[Depends(require(Role.VIEWER))],
    )
    def read_metrics() -> Response:
        metrics.set_backlog(journal.used_bytes)
        return Response(metrics.render(), media_type=CONTENT_TYPE)
