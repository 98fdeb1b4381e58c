"""MLflow's REST API without its library, whose import takes longer than a whole rollback may.

Waits, tries again and words faults as the library does in this process (`core.mlflow_client`), and presents the same
credentials from the environment.
Source: MLflow's documentation, "REST API"; the routes below `/api/2.0/mlflow`.
"""

import os
from collections.abc import Mapping
from typing import cast

import orjson
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from core.errors import TrackingUnavailable

TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_RETRIES = 2
_RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)
_SHOWN_REASON = 200

Document = Mapping[str, object]


class RefusedByMlflow(Exception):
    """MLflow understood and said no; `code` is its own word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code

    @property
    def is_missing(self) -> bool:
        """Whether what was asked for does not exist."""
        return self.code == "RESOURCE_DOES_NOT_EXIST"


class MlflowRest:
    """The REST API of one server; safe to share between threads.

    Every call raises TrackingUnavailable when the server is away, after three tries, and RefusedByMlflow when it
    refuses.
    """

    def __init__(self, tracking_uri: str, timeout_s: int) -> None:
        self._uri = tracking_uri.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        retry = Retry(
            total=int(os.environ.get(RETRIES_VARIABLE, _RETRIES)),
            backoff_factor=1,
            backoff_jitter=0.2,
            status_forcelist=_RETRIED_STATUSES,
            allowed_methods=None,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def get(self, route: str, **asked: str | int | None) -> Document:
        """Ask the route below `/api/2.0/mlflow`; what is None is not asked."""
        parameters = {name: str(value) for name, value in asked.items() if value is not None}
        return self._call("GET", route, parameters=parameters)

    def post(self, route: str, **members: object) -> Document:
        """Send the members as one JSON object."""
        return self._call("POST", route, body=members)

    def delete(self, route: str, **members: object) -> Document:
        """Send the members as one JSON object."""
        return self._call("DELETE", route, body=members)

    def _call(
        self, method: str, route: str, *, parameters: Mapping[str, str] | None = None, body: Document | None = None
    ) -> Document:
        timeout_s = int(os.environ.get(TIMEOUT_VARIABLE, self._timeout_s))
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
        try:
            answer = self._session.request(
                method,
                f"{self._uri}/api/2.0/mlflow/{route}",
                params=parameters,
                data=None if body is None else orjson.dumps(dict(body)),
                timeout=timeout_s,
                headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {}),
                auth=(user, password) if user and password and not token else None,
            )
            document = answer.json()
        except requests.JSONDecodeError as error:
            raise TrackingUnavailable(self._uri, "it answers with something else than MLflow does") from error
        except requests.RequestException as error:
            raise TrackingUnavailable(self._uri, word_fault(error, timeout_s)) from error
        if answer.status_code >= 500:
            raise TrackingUnavailable(self._uri, _shorten(str(document.get("message", "it answers with errors only"))))
        if answer.status_code >= 400:
            raise RefusedByMlflow(str(document.get("error_code", answer.status_code)), str(document.get("message")))
        return cast(Document, document)


def word_fault(error: BaseException, timeout_s: int) -> str:
    """The fault at the bottom of a chain of wrapped exceptions, in a few words."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for one in chain:
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    if any(isinstance(one, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError) for one in chain):
        return f"no answer within {timeout_s} s"
    if any(isinstance(one, urllib3.exceptions.ResponseError | requests.exceptions.RetryError) for one in chain):
        return "it answers with errors only"
    return _shorten(str(error))


def _shorten(text: str) -> str:
    return (text.splitlines() or ["unknown"])[0][:_SHOWN_REASON]
