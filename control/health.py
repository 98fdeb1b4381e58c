"""Readiness of the control plane: it needs the database and the tracking server, and asks both."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from control.outages import build_outage
from core.connections import Connections
from core.database import check_database
from core.errors import DatabaseUnavailable, TrackingUnavailable
from web.health import HealthCheck

logger = logging.getLogger(__name__)

_TRACKING_TIMEOUT_S = 3.0
# One that the tracking server has to ask its own database for: its `/health` answers without it.
_TRACKING_QUESTION = "/api/2.0/mlflow/registered-models/search?max_results=1"


def build_health_checks(connections: Connections) -> Callable[[], Sequence[HealthCheck]]:
    """The function that looks at the database and the tracking server, both at once, each time it is called."""

    def load_checks() -> list[HealthCheck]:
        with ThreadPoolExecutor(max_workers=2) as pool:
            return list(pool.map(lambda check: check(connections), (_check_database, _check_tracking)))

    return load_checks


def _check_database(connections: Connections) -> HealthCheck:
    try:
        check_database(connections.database_url)
    except DatabaseUnavailable as error:
        logger.warning("not ready: %s", error.sentence)
        return HealthCheck("database", "failed", build_outage(connections.engine.url).sentence)
    return HealthCheck("database", "ok", "it answers")


def _check_tracking(connections: Connections) -> HealthCheck:
    address = connections.settings.tracking_address
    try:
        answer = httpx.get(address + _TRACKING_QUESTION, timeout=_TRACKING_TIMEOUT_S, trust_env=False)
    except httpx.TransportError as error:
        unavailable = TrackingUnavailable(address, str(error) or type(error).__name__)
        return HealthCheck("tracking", "failed", unavailable.sentence)
    if answer.status_code != httpx.codes.OK:
        unavailable = TrackingUnavailable(address, f"it answers with status {answer.status_code}")
        return HealthCheck("tracking", "failed", unavailable.sentence)
    return HealthCheck("tracking", "ok", "it answers")
