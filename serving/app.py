"""The serving process as an application: predictions, what serves, health; everything else goes to control."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from core.database import create_database_engine
from core.settings import Settings
from serving.admission import Admission
from serving.answering import Answering
from serving.data_plane import DataPlane
from serving.description import DescribedApi
from serving.follower import Follower
from serving.histories import Histories
from serving.inference_protocol import InferenceProtocol
from serving.journal import Journal
from serving.metrics import Metrics
from serving.model_pool import ModelPool
from serving.model_routes import build_model_router
from serving.observing import add_metrics_route, build_observe
from serving.prediction_routes import Door, PredictionRoutes, describe_prediction_route, find_predicted_model
from serving.refusals import build_refusal_counter
from serving.registry_client import OpenRegistry, open_registry
from serving.scoring_protocol import ScoringProtocol
from serving.shipping_child import ShippingChild
from serving.version_loader import VersionLoader
from web.account_door import AccountDoor
from web.audit_writer import AuditWriter
from web.credentials import Credentials
from web.declared_roles import load_declared
from web.directory_follower import DirectoryFollower
from web.documentation import CONTROL_PAGE, install_documentation, mount_assets
from web.forwarding import Forwarder
from web.health import HealthCheck, build_health_router
from web.openid import open_provider
from web.problems import RequestDoor, install_problem_details


class ServingApp(DescribedApi):
    """The application, with predictions taken out before the framework sees them: what it does around each request
    takes longer than the model does. They are shown in its OpenAPI description all the same.
    """

    predictions: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = find_predicted_model(scope) if scope["type"] == "http" else None
        if model is None:
            await super().__call__(scope, receive, send)
        else:
            scope["path_params"] = {"model": model}
            await self.predictions(scope, receive, send)


_MULTIPART_OVERHEAD_BYTES = 2**16
_DESCRIPTION = f"""
Predictions of the versions that the registry says, and what serves at the moment.

All else that this address answers (data in, trainings, jobs, versions, accounts) is described at
[{CONTROL_PAGE}]({CONTROL_PAGE}).
"""


def create_app(settings: Settings, database_url: str, *, open_registry: OpenRegistry = open_registry) -> FastAPI:
    """The application. Its life begins and ends with the server's: follower and shipping run in between.

    The journal is opened at once, so that an application that cannot record is not started. `open_registry` makes the
    registry's client, in the follower's thread.
    """
    metrics = Metrics()
    journal = Journal(settings.journal_folder, settings.journal_max_bytes, is_fsync=settings.journal_fsync)
    pool = ModelPool(settings.max_loaded_versions, settings.max_loaded_bytes)
    loader = VersionLoader(settings, pool, journal, metrics)
    engine = create_database_engine(database_url, pool_size=1)
    accounts = DirectoryFollower(engine, settings.known_tokens_file)
    credentials = Credentials(accounts, open_provider(settings))
    shipping = ShippingChild(settings, database_url, journal)
    follower = Follower(
        settings,
        database_url,
        engine,
        pool=pool,
        loader=loader,
        metrics=metrics,
        open_registry=open_registry,
        wake_accounts=accounts.wake,
    )
    forwarder = Forwarder("control", settings.control_address, find_limit=_build_limits(settings.max_upload_bytes))
    admission = Admission(settings.max_concurrent_requests, metrics)
    data_plane = DataPlane(journal)
    answering = Answering(
        follower, data_plane, admission, max_body_bytes=settings.max_body_bytes, timeout_s=settings.request_timeout_s
    )

    histories = Histories(database_url)
    refusals = AuditWriter(engine)

    def load_checks() -> list[HealthCheck]:
        return [accounts.build_check(), *follower.build_checks(), *shipping.build_checks(), *histories.build_checks()]

    predictions = PredictionRoutes(data_plane, answering, histories)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        accounts.start()
        follower.start()
        shipping.start()
        refusals.start()
        # What is loaded by now stays: the collector need not look through it again and again.
        gc.freeze()
        yield
        # Requests are finished by now: what they recorded can go with the last shipment.
        await forwarder.close()
        await run_in_threadpool(admission.close)
        await run_in_threadpool(follower.stop)
        await run_in_threadpool(accounts.stop)
        journal.close()
        await run_in_threadpool(shipping.stop)
        histories.close()
        await run_in_threadpool(refusals.stop)
        engine.dispose()

    app = ServingApp(
        title="Millrace serving",
        description=_DESCRIPTION,
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    observe = build_refusal_counter(refusals, build_observe(metrics))
    plain = [
        *ScoringProtocol(follower, data_plane, answering, default_model=settings.invocations_model).build_routes(),
        *InferenceProtocol(follower, data_plane, answering, load_checks).build_routes(),
    ]
    app.predictions = RequestDoor(AccountDoor(predictions, credentials), observe)
    app.find_documented = lambda: follower.documented
    # The protocols' routes word refusals themselves.
    app.add_middleware(
        AccountDoor,
        credentials=credentials,
        shapes_errors=lambda path: any(route.path_regex.match(path) for route in plain),
    )
    install_problem_details(app, observe)
    install_documentation(app)
    mount_assets(app)
    describe_prediction_route(app)
    app.router.routes[:0] = plain
    app.include_router(build_model_router(follower, pool))
    app.include_router(build_health_router(load_checks))
    add_metrics_route(app, metrics, journal)
    app.router.default = Door(follower, predictions, forwarder)
    load_declared(app)
    return app


def _build_limits(max_upload_bytes: int) -> Callable[[str], int | None]:
    """The longest body that control takes at any address; what goes on to MLflow has no limit."""
    return lambda path: None if path.startswith("/mlflow/") else max_upload_bytes + _MULTIPART_OVERHEAD_BYTES
