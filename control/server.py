"""The control process."""

import uvicorn

from control.app import create_app
from core.connections import Connections, open_connections
from core.settings import Settings

_SHUTDOWN_S = 10


def build_server(connections: Connections) -> uvicorn.Server:
    """The server of the control plane on the settings' host and control port.

    A caller's address is taken from X-Forwarded-For where a process of this machine forwards, as serving does: MLflow
    keeps some of its routes for callers on its own machine, and has to be told who really calls.
    """
    settings = connections.settings
    config = uvicorn.Config(
        create_app(connections),
        host=settings.host,
        port=settings.control_port,
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    return uvicorn.Server(config)


def run_control(settings: Settings, database_url: str) -> None:
    """Answer until SIGTERM or SIGINT; requests under way are finished."""
    with open_connections(settings, database_url) as connections:
        build_server(connections).run()
