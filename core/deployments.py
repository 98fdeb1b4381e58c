"""The `mlflow deployments` target `millrace`: MLflow's own commands and client set what serves a running platform.

A deployment is a model, by its name. Creating or updating one sets the model's serving target, over HTTP, and returns
when that version answers. Deleting one gives the model back to stage Production, which is what serves it otherwise:
there is no way to take a model that is in Production out of service here.

Registered as entry point `mlflow.deployments`. MLflow looks for the one client class, `run_local` and `target_help`.
"""

import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from core.platform_client import TOKEN_VARIABLE, PlatformClient
from core.settings import load_settings
from core.targets import PRODUCTION

_SCHEME = "millrace"
_FLAVOR = "keras"
_FOLLOW_TIMEOUT_S = 60.0
_FOLLOW_INTERVAL_S = 0.2
_MODEL_URI = re.compile(r"models:/+([a-z][a-z0-9_]*)(?:/([0-9]+|Production)|@(production))")


class MillraceDeployments(BaseDeploymentClient):
    """The client of one running platform."""

    def __init__(self, target_uri: str) -> None:
        """`millrace` is the platform that this environment's settings name, `millrace:http://host:port` any other."""
        super().__init__(target_uri)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
        self._platform = PlatformClient(_find_address(target_uri))

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve the version of `model_uri` and wait until it answers.

        A model whose target is set already is not created again: it is updated, or deleted first.
        """
        _refuse_unused(flavor, config, endpoint)
        target = _read_target(name, model_uri)
        current = self._load_target(name)
        if current != PRODUCTION:
            raise MlflowException(
                f"Deployment {name!r} exists, with target {current!r}; update it, or delete it first.",
                RESOURCE_ALREADY_EXISTS,
            )
        return self._set_target(name, target)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another version and wait until it answers; without `model_uri` nothing changes."""
        _refuse_unused(flavor, config, endpoint)
        if model_uri is None:
            return self.get_deployment(name)
        return self._set_target(name, _read_target(name, model_uri))

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Let stage Production decide again what serves the model; a model that is not known is no error."""
        _refuse_unused(None, config, endpoint)
        try:
            if self._load_target(name) != PRODUCTION:
                self._platform.call("PUT", f"/models/{name}/target", {"target": PRODUCTION})
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Every model that a version serves, also where stage Production decides which."""
        _refuse_unused(None, None, endpoint)
        models = self._platform.call("GET", "/models")["models"]
        return [_describe(model) for model in models if model["version"] is not None]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """The model's target, and the version that serves it."""
        _refuse_unused(None, None, endpoint)
        return _describe(self._platform.call("GET", f"/models/{_check_name(name)}"))

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Predictions for a DataFrame, an array, a list, or a document of the scoring protocol."""
        from mlflow.utils.proto_json_utils import dump_input_data

        _refuse_unused(None, None, endpoint)
        if deployment_name is None:
            raise MlflowException("The name of a deployment is needed: the model's.", INVALID_PARAMETER_VALUE)
        content = dump_input_data(inputs).encode()
        answer = self._platform.send("POST", f"/models/{_check_name(deployment_name)}/invocations", content)
        return PredictionsResponse(answer.json())

    def _load_target(self, name: str) -> str:
        return str(self._platform.call("GET", f"/models/{_check_name(name)}/target")["target"])

    def _set_target(self, name: str, target: str) -> dict[str, Any]:
        self._platform.call("PUT", f"/models/{_check_name(name)}/target", {"target": target})
        deadline = time.monotonic() + _FOLLOW_TIMEOUT_S
        while True:
            model = self._platform.call("GET", f"/models/{name}")
            version = model["version"]
            has_followed = model["target"] == target and version is not None and version == model["target_version"]
            if has_followed and target in (PRODUCTION, str(version)):
                return _describe(model)
            if time.monotonic() >= deadline:
                failed = model["failed"]
                reason = failed["reason"] if failed else f"version {version} serves instead"
                sentence = f"Target {target!r} of {name!r} does not serve after {_FOLLOW_TIMEOUT_S:.0f} s: {reason}"
                raise MlflowException(sentence, TEMPORARILY_UNAVAILABLE)
            time.sleep(_FOLLOW_INTERVAL_S)


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Part of MLflow's interface; a platform on this machine is started by its own command."""
    raise MlflowException("Run `millrace up` for a platform on this machine, then create the deployment there.")


def target_help() -> str:
    """What `mlflow deployments help -t millrace` prints."""
    return f"""\
Target URIs:
  millrace                    the platform on this machine, by MILLRACE_SERVING_PORT
  millrace:http://host:port   any other
A token is taken from the environment variable {TOKEN_VARIABLE}.

--name is the model's name. --model-uri is models:/NAME/VERSION, models:/NAME/Production or models:/NAME@production.
create and update set what serves the model and return when it answers; delete lets stage Production decide again.
predict takes what MLflow's scoring protocol takes. There is no config, and no flavor to choose.
"""


def _find_address(target_uri: str) -> str:
    address = target_uri.removeprefix(_SCHEME).removeprefix(":")
    if not address:
        return load_settings().serving_address
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise MlflowException(
            f"The target {target_uri!r} is not allowed: `millrace` or `millrace:http://host:port` is expected.",
            INVALID_PARAMETER_VALUE,
        )
    return address.rstrip("/")


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise MlflowException(f"There is no model {name!r}.", RESOURCE_DOES_NOT_EXIST)
    return name


def _read_target(name: str, model_uri: str) -> str:
    """The serving target that a model URI means."""
    found = _MODEL_URI.fullmatch(model_uri)
    if found is None:
        raise MlflowException(
            f"{model_uri!r} cannot be served: models:/{name}/VERSION, models:/{name}/Production or "
            f"models:/{name}@production is expected. Register a run's model first; the newest version, which "
            "MLflow calls latest, need not have passed the gate.",
            INVALID_PARAMETER_VALUE,
        )
    model, target, _ = found.groups()
    if model != name:
        raise MlflowException(
            f"A deployment has its model's name: {name!r} cannot serve {model!r}.", INVALID_PARAMETER_VALUE
        )
    return target or PRODUCTION


def _refuse_unused(flavor: str | None, config: Mapping[str, Any] | None, endpoint: str | None) -> None:
    for what, value in (("flavor", flavor), ("config", config), ("endpoint", endpoint)):
        if value and (what, value) != ("flavor", _FLAVOR):
            raise MlflowException(f"The target millrace takes no {what}; {value!r} was given.", INVALID_PARAMETER_VALUE)


def _describe(model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": model["model"],
        "flavor": _FLAVOR,
        "target": model["target"],
        "version": model["version"],
        "model_uri": None if model["version"] is None else f"models:/{model['model']}/{model['version']}",
    }
