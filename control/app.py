"""The application of the control plane."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from control import (
    findings,
    observation_rows,
    observations,
    rejected,
    reports,
    targets,
    tracking_door,
    trainings,
    verdicts,
    versions,
)
from control.body_limits import BodyLimit
from control.documents import DocumentedApi
from control.health import build_health_checks
from control.origins import OriginGuard
from control.outages import install_database_outages
from control.tracking_door import PREFIX, TrackingDoor
from core.connections import Connections
from web.documentation import install_documentation
from web.health import build_health_router
from web.problems import install_problem_details

_MAX_DOCUMENT_BYTES = 2**20
_MULTIPART_OVERHEAD_BYTES = 2**16

_DESCRIPTION = """
Data in, trainings, versions and their stages, serving targets, monitoring, and the door to MLflow (`/mlflow`).

Errors are problem details (RFC 9457). Times are UTC.
"""


def create_app(connections: Connections) -> FastAPI:
    """The control plane on these connections, which stay the caller's to close."""
    settings = connections.settings
    guard = OriginGuard(is_local=not settings.private_network)
    door = TrackingDoor(settings.tracking_address, guard)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await door.close()

    app = DocumentedApi(
        title="Millrace control plane",
        description=_DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(guard.check)],
        # It would answer with the address that serving forwards to.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.connections = connections
    app.add_middleware(BodyLimit, find_limit=_build_limits(settings.max_upload_bytes))
    install_problem_details(app)
    install_documentation(app)
    install_database_outages(app, connections.engine.url)
    app.include_router(build_health_router(build_health_checks(connections)))
    for module in (
        observation_rows,
        observations,
        rejected,
        trainings,
        versions,
        verdicts,
        targets,
        findings,
        reports,
        tracking_door,
    ):
        app.include_router(module.router)
    app.mount(PREFIX, door)
    return app


def _build_limits(max_upload_bytes: int) -> Callable[[str], int | None]:
    def find_limit(path: str) -> int | None:
        if path.startswith(f"{PREFIX}/"):
            return None
        return max_upload_bytes + _MULTIPART_OVERHEAD_BYTES if observations.takes_file(path) else _MAX_DOCUMENT_BYTES

    return find_limit
