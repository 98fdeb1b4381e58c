"""How this process talks to MLflow's server: how long it waits, which way files go, and what a fault means.

MLflow reads these settings from the environment at each request and has no other switch, so they are set in this
process's own environment; what the operator has set stays.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from core.errors import TrackingUnavailable

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
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_SHOWN_REASON = 200
# The filters of warnings belong to the whole process: two threads that restored them out of order would lose theirs.
_warnings_lock = threading.Lock()


def build_client(tracking_uri: str, timeout_s: int) -> MlflowClient:
    """A client of the tracking server and its registry; nothing is sent yet.

    From now on every request of this process to MLflow waits at most `timeout_s` for a byte, or longer where another
    part of the process asked for longer, and is tried three times within about three seconds of pauses.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[_TIMEOUT] = str(max(timeout_s, int(os.environ.get(_TIMEOUT, "0"))))
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


@contextmanager
def without_stage_warning() -> Iterator[None]:
    """Silence MLflow's notice that stages are deprecated, and no other: Millrace is built on stages."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*transition_model_version_stage`` is deprecated", category=FutureWarning
        )
        yield


def _word(error: BaseException) -> str:
    """The fault at the bottom of MLflow's chain of wrapped exceptions, in a few words."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for one in chain:
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    if any(isinstance(one, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError) for one in chain):
        return f"no answer within {os.environ[_TIMEOUT]} s"
    if any(isinstance(one, urllib3.exceptions.ResponseError | requests.exceptions.RetryError) for one in chain):
        return "it answers with errors only"
    return (str(error).splitlines() or ["unknown"])[0][:_SHOWN_REASON]
