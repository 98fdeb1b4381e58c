"""How this process talks to MLflow's server: how long it waits, which way files go, and what a fault means.

MLflow reads these settings from the environment at each request and has no other switch, so they are set in this
process's own environment; what the operator has set stays.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from core.errors import TrackingUnavailable
from core.mlflow_rest import TIMEOUT_VARIABLE, word_fault

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.2",
    # Files go through the server's proxy: only the server can reach S3 and has its keys.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow prints a run's address to standard output, where a command prints its answer.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def build_client(tracking_uri: str, timeout_s: int) -> MlflowClient:
    """A client of the tracking server and its registry; nothing is sent yet.

    From now on every request of this process to MLflow waits at most `timeout_s` for a byte, or longer where another
    part of the process asked for longer, and is tried three times within about three seconds of pauses.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[TIMEOUT_VARIABLE] = str(max(timeout_s, int(os.environ.get(TIMEOUT_VARIABLE, "0"))))
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@contextmanager
def reaching(tracking_uri: str) -> Iterator[None]:
    """Turn faults of the connection, and the server's own failures, into TrackingUnavailable.

    A refusal (the server understood and said no) passes as MLflow's or requests' own exception.
    """
    try:
        yield
    except MlflowException as error:
        if error.get_http_status_code() < 500:  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
            raise
        raise TrackingUnavailable(tracking_uri, _word(error)) from error
    except requests.RequestException as error:
        if error.response is not None and error.response.status_code < 500:
            raise
        raise TrackingUnavailable(tracking_uri, _word(error)) from error


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow says that what was asked for does not exist."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def is_present_already(error: MlflowException) -> bool:
    """Whether MLflow says that what was to be made exists."""
    return bool(error.error_code == "RESOURCE_ALREADY_EXISTS")


def _word(error: BaseException) -> str:
    return word_fault(error, int(os.environ[TIMEOUT_VARIABLE]))
