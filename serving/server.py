"""The serving process: the application under uvicorn."""

import uvicorn

from core.logs import configure_logs
from core.settings import Settings
from serving.app import create_app

_GRACE_S = 30


def run_serving(settings: Settings, database_url: str) -> None:
    """Serve until a signal ends the process; requests that were accepted are answered first."""
    configure_logs(settings, "serving")
    config = uvicorn.Config(
        create_app(settings, database_url),
        host=settings.host,
        port=settings.serving_port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        # Logs are the process's own, set up above; a line a request would cost more than the request.
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    uvicorn.Server(config).run()
