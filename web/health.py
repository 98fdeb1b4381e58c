"""Health of a web process: liveness says that it turns, readiness what it can do and why not."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

CheckState = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True)
class HealthCheck:
    """One named part of the process's health.

    `degraded`: it does its work, but something needs attention. `failed`: it cannot, and must not be sent requests.
    """

    name: str
    state: CheckState
    reason: str


def build_health_router(load_checks: Callable[[], Sequence[HealthCheck]]) -> APIRouter:
    """Routes `/health/live` and `/health/ready`; `load_checks` looks at the process each time it is asked."""
    router = APIRouter(prefix="/health", tags=["health"])
    started_at = time.monotonic()

    @router.get("/live", summary="Whether the process turns")
    async def live() -> dict[str, object]:
        return {"status": "alive", "process": os.getpid(), "uptime_s": round(time.monotonic() - started_at, 3)}

    @router.get(
        "/ready",
        summary="Whether the process can answer, check by check",
        response_class=JSONResponse,
        responses={503: {"description": "A check failed; its reason says what is missing"}},
    )
    def ready() -> Response:
        checks = load_checks()
        is_ready = all(check.state != "failed" for check in checks)
        document = {
            "status": "ready" if is_ready else "not_ready",
            "checks": [asdict(check) for check in checks],
        }
        return JSONResponse(document, 200 if is_ready else 503)

    return router
