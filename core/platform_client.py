"""The platform over HTTP, for MLflow's plugins: one address, one token, errors in MLflow's own terms."""

import os
from collections.abc import Mapping
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE

from core.settings import load_settings

TOKEN_VARIABLE = "MILLRACE_TOKEN"  # noqa: S105  # the variable's name
"""Environment variable with the token to send; without it that of MLflow's own client is, and else none."""
ADDRESS_VARIABLE = "MILLRACE_URL"
"""Environment variable with the platform's address, as in https://millrace.example."""

_TRACKING_TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105  # the variable's name
_TRACKING_ADDRESS = "MLFLOW_TRACKING_URI"
_TRACKING_PREFIX = "/mlflow"
_TIMEOUT_S = 60.0
_CODES = {404: RESOURCE_DOES_NOT_EXIST, 503: TEMPORARILY_UNAVAILABLE}


class PlatformClient:
    """Requests to one running platform."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._session = requests.Session()
        token = os.environ.get(TOKEN_VARIABLE) or os.environ.get(_TRACKING_TOKEN)
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, document: Mapping[str, object] | None = None) -> dict[str, Any]:
        """The JSON document that is answered; raises MlflowException."""
        answer: dict[str, Any] = self.send(method, path, document).json()
        return answer

    def send(self, method: str, path: str, content: Mapping[str, object] | bytes | None) -> requests.Response:
        """The answer to a document, or to bytes of JSON; raises MlflowException where it is no success."""
        given: dict[str, Any] = {"data": content} if isinstance(content, bytes) else {"json": content}
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            answer = self._session.request(
                method, f"{self.address}{path}", headers=headers, timeout=_TIMEOUT_S, allow_redirects=False, **given
            )
        except requests.RequestException as error:
            raise MlflowException(
                f"Millrace at {self.address} does not answer: {type(error).__name__}. Start it with `millrace up`.",
                TEMPORARILY_UNAVAILABLE,
            ) from error
        if not answer.ok:
            raise MlflowException(_read_error(answer), _CODES.get(answer.status_code, BAD_REQUEST))
        return answer


def find_address() -> str:
    """The platform's address: ADDRESS_VARIABLE, else that of its door to MLflow, else this machine's settings'."""
    given = os.environ.get(ADDRESS_VARIABLE)
    if given:
        return given
    tracking = os.environ.get(_TRACKING_ADDRESS, "").rstrip("/")
    if tracking.startswith(("http://", "https://")) and tracking.endswith(_TRACKING_PREFIX):
        return tracking.removesuffix(_TRACKING_PREFIX)
    return load_settings().serving_address


def _read_error(answer: requests.Response) -> str:
    try:
        document = answer.json()
    except requests.JSONDecodeError:
        document = {}
    for name in ("detail", "message"):
        if isinstance(document, dict) and isinstance(document.get(name), str):
            return str(document[name])
    return f"{answer.request.method} {answer.request.path_url} was answered with status {answer.status_code}."
