"""The control process."""

import socket

import uvicorn
from fastapi import FastAPI

from control.app import create_app
from core.connections import Connections, open_connections
from core.settings import Settings

_SHUTDOWN_S = 10


class ControlServer(uvicorn.Server):
    """Ends the streams that follow jobs before it waits for the requests under way."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.state.followers.is_stopping = True
        await super().shutdown(sockets)


def build_server(connections: Connections) -> ControlServer:
    """The server of the control plane on the settings' host and control port.

    A caller's address is taken from X-Forwarded-For where a trusted process forwards, as serving does: tries to sign in
    are counted by it, the audit log names it, and MLflow keeps some of its routes for callers on its own machine.
    """
    settings = connections.settings
    app = create_app(connections)
    config = uvicorn.Config(
        app,
        host=settings.private_host,
        port=settings.control_port,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    return ControlServer(app, config)


def run_control(settings: Settings, database_url: str) -> None:
    """Answer until SIGTERM or SIGINT; requests under way are finished."""
    with open_connections(settings, database_url) as connections:
        build_server(connections).run()
