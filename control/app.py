"""The application of the control plane."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from control import (
    accounts,
    alerts,
    approvals,
    audit,
    findings,
    history,
    jobs,
    metrics,
    observation_rows,
    observations,
    outcomes,
    rejected,
    reports,
    retraining,
    sessions,
    sign_in_pages,
    targets,
    tracking_door,
    trainings,
    verdicts,
    versions,
)
from control.audit_trail import AuditTrail
from control.body_limits import BodyLimit
from control.documented import DocumentedPaths
from control.documents import DocumentedApi
from control.health import build_health_checks
from control.job_events import Followers
from control.origins import OriginGuard
from control.outages import install_database_outages
from control.tracking_door import PREFIX, TrackingDoor
from control.waiting import TrainingEnds
from core.connections import Connections
from web.account_door import AccountDoor
from web.credentials import Credentials
from web.declared_roles import load_declared
from web.directory_follower import DirectoryFollower
from web.documentation import CONTROL_DESCRIPTION, CONTROL_PAGE, install_documentation, mount_assets
from web.health import build_health_router
from web.openid import open_provider
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
    guard = OriginGuard(is_local=settings.is_local and not settings.private_network)
    trail = AuditTrail(connections.engine)
    door = TrackingDoor(settings.tracking_address, guard, lambda: connections.registry, trail.check_database)
    directory = DirectoryFollower(connections.engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        directory.start()
        trail.start()
        app.state.import_slots = CapacityLimiter(retraining.IMPORTS_AT_ONCE)
        app.state.training_ends = ends = TrainingEnds(connections.engine)
        yield
        await ends.close()
        await run_in_threadpool(directory.stop)
        await door.close()
        await run_in_threadpool(trail.stop)

    app = DocumentedApi(
        title="Millrace control plane",
        description=_DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(guard.check)],
        # It would answer with the address that serving forwards to.
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.connections = connections
    app.state.followers = Followers()
    app.state.accounts = directory
    app.add_middleware(BodyLimit, find_limit=_build_limits(settings.max_upload_bytes))
    # MLflow's clients are refused in the words that they show.
    app.add_middleware(
        AccountDoor, credentials=Credentials(directory, open_provider(settings)), shapes_errors=_is_tracking
    )
    install_problem_details(app, record=trail.record)
    install_documentation(app)
    install_documentation(app, CONTROL_PAGE, CONTROL_DESCRIPTION)
    mount_assets(app)
    install_database_outages(app, connections.engine.url)
    app.include_router(build_health_router(build_health_checks(connections)))
    for module in (
        observation_rows,
        observations,
        rejected,
        trainings,
        retraining,
        jobs,
        versions,
        history,
        approvals,
        verdicts,
        targets,
        findings,
        alerts,
        metrics,
        reports,
        audit,
        tracking_door,
        sessions,
        sign_in_pages,
        accounts,
    ):
        app.include_router(module.router)
    for router in outcomes.routers:
        app.include_router(router)
    app.mount(PREFIX, door)
    app.router.default = DocumentedPaths(connections, app.router)
    load_declared(app)
    return app


def _is_tracking(path: str) -> bool:
    # With a line break in it the path is not mounted there, and nothing else words its refusal.
    return path.startswith(f"{PREFIX}/") and "\n" not in path


def _build_limits(max_upload_bytes: int) -> Callable[[str], int | None]:
    def find_limit(path: str) -> int | None:
        if _is_tracking(path):
            return None
        takes_file = observations.takes_file(path) or retraining.takes_file(path)
        return max_upload_bytes + _MULTIPART_OVERHEAD_BYTES if takes_file else _MAX_DOCUMENT_BYTES

    return find_limit
