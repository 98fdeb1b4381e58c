"""The serving process as an application: predictions, what serves, health; everything else goes to control."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from core.database import create_database_engine
from core.settings import Settings
from serving.data_plane import DataPlane
from serving.follower import Follower
from serving.journal import Journal
from serving.model_pool import ModelPool
from serving.model_routes import build_model_router
from serving.prediction_routes import Door, PredictionRoutes, build_prediction_route
from serving.registry_client import OpenRegistry, open_registry
from serving.shipping import Shipper
from web.forwarding import Forwarder
from web.health import HealthCheck, build_health_router
from web.problems import install_problem_details


def create_app(settings: Settings, database_url: str, *, open_registry: OpenRegistry = open_registry) -> FastAPI:
    """The application. Its life begins and ends with the server's: follower and shipper run in between.

    The journal is opened at once, so that an application that cannot record is not started. `open_registry` makes the
    registry's client, in the follower's thread.
    """
    journal = Journal(settings.journal_folder, settings.journal_max_bytes, is_fsync=settings.journal_fsync)
    pool = ModelPool()
    engine = create_database_engine(database_url, pool_size=1)
    shipper = Shipper(create_database_engine(database_url, pool_size=1), journal, settings.journal_folder)
    follower = Follower(settings, database_url, engine, pool=pool, journal=journal, open_registry=open_registry)
    forwarder = Forwarder("control", settings.control_address)
    predictions = PredictionRoutes(follower, DataPlane(journal), settings.max_body_bytes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        shipper.start()
        follower.start()
        yield
        # Requests are finished by now: what they recorded can go with the last shipment.
        await forwarder.close()
        await run_in_threadpool(follower.stop)
        await run_in_threadpool(shipper.stop)
        journal.close()
        engine.dispose()

    def load_checks() -> list[HealthCheck]:
        return [*follower.build_checks(), *shipper.build_checks()]

    app = FastAPI(
        title="Millrace serving",
        description="Predictions of the versions that the registry says, and what serves at the moment.",
        redirect_slashes=False,
        lifespan=lifespan,
    )
    install_problem_details(app)
    app.router.routes.insert(0, build_prediction_route(predictions))
    app.include_router(build_model_router(follower, pool))
    app.include_router(build_health_router(load_checks))
    app.router.default = Door(follower, predictions, forwarder)
    return app
