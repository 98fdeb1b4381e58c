"""The serving processes: the application under uvicorn, one worker or several on one port."""

import os
from typing import Any

import uvicorn
from fastapi import FastAPI

from core.logs import configure_logs
from core.settings import Settings, load_settings
from serving.app import create_app
from serving.metrics import prepare_multiprocess
from serving.turns import TurnProtocol

_GRACE_S = 30


def run_serving(settings: Settings, database_url: str) -> None:
    """Serve until a signal ends the process; requests that were accepted are answered first."""
    configure_logs(settings, "serving")
    if settings.serving_workers == 1:
        build_server(create_app(settings, database_url), settings).run()
        return
    prepare_multiprocess(settings.metrics_folder)
    # The workers are new processes, which read the settings anew; the address may be of the embedded database.
    os.environ["DATABASE_URL"] = database_url
    uvicorn.run(
        "serving.server:build_worker", factory=True, workers=settings.serving_workers, **_build_options(settings)
    )


def build_server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """The server of a process that is the only one."""
    return uvicorn.Server(uvicorn.Config(app, **_build_options(settings)))


def build_worker() -> FastAPI:
    """The application of one of several workers."""
    settings = load_settings()
    configure_logs(settings, "serving")
    return create_app(settings, os.environ["DATABASE_URL"])


def _build_options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.serving_port,
        "proxy_headers": True,
        "forwarded_allow_ips": settings.trusted_proxies,
        "loop": "uvloop",
        "http": TurnProtocol,
        "ws": "none",
        "lifespan": "on",
        # Logs are the process's own, set up above; a line a request would cost more than the request.
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": _GRACE_S,
    }
