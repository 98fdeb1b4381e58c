"""The MLflow Projects backend `millrace`: `mlflow run . --backend millrace` asks a running platform for a training.

The run that this makes is the training's own: the worker that carries it out logs to it. The platform trains with its
own checkout and its stored rows, wherever the command is given; nothing of the project's folder is sent. MLflow's
command line returns when the training is queued, `{"follow": true}` as `--backend-config` lets it follow the training
to its end; from Python `synchronous` decides, as with every backend.

Registered as entry point `mlflow.project_backend`.
"""

import getpass
import logging
import time
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun
from mlflow.projects.utils import (
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
)
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER

from core.mlflow_client import is_present_already
from core.names import is_name
from core.platform_client import PlatformClient, find_address

# MLflow's commands show what loggers below its own say, and no others.
logger = logging.getLogger("mlflow.projects.backend.millrace")

_MODES = {"train": "anew", "retrain": "continue"}
_FOLLOW = "follow"
# What MLflow adds to every backend's configuration itself.
_OF_MLFLOW = frozenset(
    {
        *(PROJECT_BUILD_IMAGE, PROJECT_DOCKER_ARGS, PROJECT_DOCKER_AUTH),
        *(PROJECT_ENV_MANAGER, PROJECT_STORAGE_DIR, PROJECT_SYNCHRONOUS),
    }
)
_DEFAULT_EXPERIMENT = "Default"
_OF_WORKER = ("training", "attempt")
_LOOK_S = 1.0
_STATUSES = {
    "queued": RunStatus.SCHEDULED,
    "running": RunStatus.RUNNING,
    "finished": RunStatus.FINISHED,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.KILLED,
}


class MillraceBackend(AbstractBackend):
    """Asks the platform for trainings: entry points `train` and `retrain`."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, Any] | None,
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> "RequestedRun":
        """Ask for the training and return the run that is its own; raises ExecutionException.

        While a training of the model is queued or running, that one is followed, and the new run ends as KILLED.
        """
        follows = _find_follows(backend_config)
        model, order = _read_order(entry_point, dict(params or {}), version)
        platform = PlatformClient(find_address())
        tracking = MlflowClient(tracking_uri)
        tags = {
            MLFLOW_USER: getpass.getuser(),
            MLFLOW_SOURCE_NAME: project_uri,
            MLFLOW_SOURCE_TYPE: "PROJECT",
            MLFLOW_PROJECT_ENTRY_POINT: entry_point,
        }
        experiment_id = _find_experiment(tracking, experiment_id, model)
        run_id = str(tracking.create_run(experiment_id, tags=tags).info.run_id)
        try:
            training = platform.call("POST", f"/models/{model}/trainings", {**order, "run_id": run_id})
        except MlflowException as error:
            tracking.set_terminated(run_id, "FAILED")
            raise ExecutionException(str(error)) from error
        submitted = RequestedRun(platform, run_id, str(training["id"]))
        if training["run_id"] == run_id:
            logger.info("Training %s of %s is queued: %s", training["id"], model, submitted.url)
        else:
            tracking.set_terminated(run_id, "KILLED")
            logger.warning(
                "A training of %s is already %s; run %s is not used, and that one is followed: %s",
                model,
                training["state"],
                run_id,
                submitted.url,
            )
        if follows and not submitted.wait():
            raise ExecutionException(f"Training {training['id']} of {model} {submitted.describe()}")
        return submitted


class RequestedRun(SubmittedRun):
    """The run of a training that the platform carries out; `url` shows the training."""

    def __init__(self, platform: PlatformClient, run_id: str, training_id: str) -> None:
        super().__init__()
        self._platform = platform
        self._run_id = run_id
        self._path = f"/trainings/{training_id}"
        self.url = f"{platform.address}{self._path}"

    @property
    def run_id(self) -> str:
        """MLflow's run."""
        return self._run_id

    def get_status(self) -> int:
        """MLflow's status of the training: SCHEDULED while it is queued."""
        return int(_STATUSES[self._load()["state"]])

    def wait(self) -> bool:
        """Follow the training to its end, whatever is away meanwhile; whether it succeeded."""
        step = ""
        while True:
            try:
                training = self._load()
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
                    raise
                logger.warning("%s", error)
            else:
                if training["state"] not in ("queued", "running"):
                    logger.info("The training %s", self.describe())
                    return bool(training["state"] == "finished")
                if training["step"] != step:
                    step = training["step"]
                    logger.info("%s", step)
            time.sleep(_LOOK_S)

    def describe(self) -> str:
        """How the training stands, in words."""
        training = self._load()
        if training["state"] == "finished":
            return f"made version {training['version']}: {(training['verdict'] or {}).get('reason', '')}"
        return f"is {training['state']}: {training['error'] or training['step']}"

    def cancel(self) -> None:
        """Follow it no longer. A training is the platform's: it goes on."""
        logger.warning("The training goes on: %s", self.url)

    def _load(self) -> dict[str, Any]:
        return self._platform.call("GET", self._path)


def _find_follows(backend_config: Mapping[str, Any]) -> bool:
    given = {name: value for name, value in backend_config.items() if name not in _OF_MLFLOW}
    follows = given.get(_FOLLOW, False)
    if given.keys() - {_FOLLOW} or not isinstance(follows, bool):
        raise ExecutionException(f"The backend millrace takes {{{_FOLLOW!r}: true}} alone, not {given}.")
    return follows


def _read_order(entry_point: str, params: dict[str, Any], version: str | None) -> tuple[str, dict[str, object]]:
    """The model and the order for its training."""
    if entry_point not in _MODES:
        raise ExecutionException(
            f"The backend millrace carries out {' and '.join(_MODES)}, not {entry_point!r}; give -e train."
        )
    if version is not None:
        raise ExecutionException("The platform trains with its own checkout: leave --version out.")
    model = str(params.pop("workload", ""))
    if not is_name(model):
        raise ExecutionException(f"-P workload=NAME is needed, as in prices; {model!r} was given.")
    if given := [name for name in _OF_WORKER if name in params]:
        raise ExecutionException(f"The parameter {given[0]!r} is the worker's own; leave it out.")
    order: dict[str, object] = {"mode": _MODES[entry_point]}
    if "version_name" in params:
        order["version_name"] = str(params.pop("version_name"))
    return model, {**order, "parameters": {name: _read_number(name, value) for name, value in params.items()}}


def _read_number(name: str, value: object) -> int | float:
    try:
        number = float(str(value))
    except ValueError:
        raise ExecutionException(f"The parameter {name}={value!r} is no number.") from None
    return int(number) if number.is_integer() else number


def _find_experiment(tracking: MlflowClient, experiment_id: str, model: str) -> str:
    """The id of the model's experiment, which is made if it is not there; raises ExecutionException for another."""
    name = tracking.get_experiment(experiment_id).name
    if name not in (_DEFAULT_EXPERIMENT, model):
        raise ExecutionException(f"Runs of {model} are in the experiment {model!r}, not {name!r}; leave it out.")
    while (experiment := tracking.get_experiment_by_name(model)) is None:
        try:
            tracking.create_experiment(model)
        except MlflowException as error:
            # Another process was quicker.
            if not is_present_already(error):
                raise
    return str(experiment.experiment_id)
