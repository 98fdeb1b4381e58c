"""The tracking server: MLflow's server as a process of the platform.

Knows the process, not MLflow's client, which takes seconds to import.
"""

import os
import sys
import time
import urllib.error
import urllib.request

from core.database import build_tracking_store_url
from core.errors import TrackingUnavailable
from core.settings import Settings

_LOCAL_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"
_LOOK_TIMEOUT_S = 2.0
_LOOK_INTERVAL_S = 0.2


def build_server_command(settings: Settings, database_url: str) -> tuple[list[str], dict[str, str]]:
    """Command line and whole environment of the tracking server.

    Its store is MLFLOW_DATABASE_URL, else database `mlflow` beside the platform's. The address of the store, which
    holds a password, goes through the environment: everyone on the machine can read a command line.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", "--workers", "1"]
    command += ["--host", settings.private_host, "--port", str(settings.tracking_port)]
    command += ["--artifacts-destination", settings.artifacts]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": find_tracking_store_url(settings, database_url),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    # The address that clients use would make the server a client of itself.
    environment.pop("MLFLOW_TRACKING_URI", None)
    if settings.tracking_allowed_hosts is not None:
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{_LOCAL_HOSTS},{settings.tracking_allowed_hosts}"
    return command, environment


def find_tracking_store_url(settings: Settings, database_url: str) -> str:
    """The address of MLflow's backend store, with its password: the setting's, else beside the platform's database."""
    own_store = settings.mlflow_database_url
    if own_store is None:
        return build_tracking_store_url(database_url)
    return build_tracking_store_url(own_store.get_secret_value(), database=None)


def is_tracking_ready(uri: str) -> bool:
    """Whether a tracking server answers at this address; waits two seconds at most.

    The address may be that of the door, which asks for the token that MLflow's own clients send.
    """
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{uri}/health", headers=headers)  # noqa: S310  # http(s), by the settings
    try:
        with urllib.request.urlopen(request, timeout=_LOOK_TIMEOUT_S) as response:  # noqa: S310  # likewise
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def wait_for_tracking(uri: str, timeout_s: float) -> None:
    """Return when the tracking server answers; raises TrackingUnavailable after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not is_tracking_ready(uri):
        if time.monotonic() >= deadline:
            raise TrackingUnavailable(uri, f"no answer within {timeout_s:g} s")
        time.sleep(_LOOK_INTERVAL_S)
