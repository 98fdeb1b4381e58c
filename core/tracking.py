"""Tracking: what runs log to MLflow's server, and the files beside them."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from core.errors import ArtifactNotFound, TrackingUnavailable
from core.mlflow_client import build_client, is_missing, is_present_already, reaching
from core.training_errors import RunRejected

TRAINING_TAG = "millrace.training_id"
ATTEMPT_TAG = "millrace.attempt"
CAUSE_TAG = "millrace.cause"
SNAPSHOT_TAG = "millrace.snapshot_digest"
VERSION_NAME_TAG = "millrace.version_name"
VARIANT_TAG = "millrace.variant"
CODE_TAG = "millrace.code_version"
ERROR_TAG = "millrace.error"

_TRAINING_PARAMETER = "training"
"""The MLproject's parameter that names the training; MLflow logs it before the entry point starts."""
_FILES = "mlflow-artifacts:/snapshots"
# The server answers an upload when S3 has taken it, so a large one is silent for long.
_TIMEOUT_S = 300
# MLflow's own limits.
_METRICS_A_CALL = 1000
_DAY_S = 86_400
_PARAMETERS_A_CALL = 100
_DIGEST_CHARS = 36
_LONGEST_ERROR = 5000


class Tracking:
    """Runs with what they log, and files kept beside them in the same artifact store.

    All goes through the tracking server, which alone needs the keys of an S3 store. Every method raises
    TrackingUnavailable when the server is away.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = build_client(uri, _TIMEOUT_S)

    def activate(self) -> None:
        """Make this server the one that MLflow's own functions use in this process."""
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)

    # --- runs ----------------------------------------------------------------------------------------------------

    def ensure_experiment(self, name: str) -> str:
        """The id of the experiment, which is created if it is not there."""
        with reaching(self._uri):
            while (experiment := self._client.get_experiment_by_name(name)) is None:
                try:
                    self._client.create_experiment(name)
                except MlflowException as error:
                    # Another process was quicker.
                    if not is_present_already(error):
                        raise
            return str(experiment.experiment_id)

    def start_run(self, experiment: str, run_id: str | None, tags: Mapping[str, str]) -> str:
        """Start a run of the experiment, or go on with the one that `mlflow run` made; returns its id."""
        if run_id is None:
            experiment_id = self.ensure_experiment(experiment)
            with reaching(self._uri):
                return str(self._client.create_run(experiment_id, tags=dict(tags)).info.run_id)
        with reaching(self._uri):
            self._client.update_run(run_id, status="RUNNING")
        self.set_tags(run_id, tags)
        return run_id

    def adopt_run(self, run_id: str, experiment: str, training_id: str) -> None:
        """Make a person's own run that of the training; raises RunRejected for one that cannot be.

        It has to be a running one of the experiment that no training has yet.
        """
        with reaching(self._uri):
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if not is_missing(error):
                    raise
                raise RunRejected(run_id, "there is no such run") from error
            of_model = self._client.get_experiment_by_name(experiment)
        if of_model is None or run.info.experiment_id != of_model.experiment_id:
            raise RunRejected(
                run_id, f"it is not in the experiment {experiment!r}; give --experiment-name {experiment}"
            )
        if run.info.status != "RUNNING":
            raise RunRejected(run_id, f"its status is {run.info.status}, a running one is needed")
        if TRAINING_TAG in run.data.tags:
            raise RunRejected(run_id, f"it belongs to training {run.data.tags[TRAINING_TAG]}")
        self.set_tags(run_id, {TRAINING_TAG: training_id, CAUSE_TAG: "project"})

    def fail_run(self, run_id: str, reason: str) -> None:
        """End the run as FAILED, with the reason as a tag."""
        self.set_tags(run_id, {ERROR_TAG: reason[:_LONGEST_ERROR]})
        self.finish_run(run_id, "FAILED")

    def finish_run(self, run_id: str, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        with reaching(self._uri):
            self._client.set_terminated(run_id, status)

    def reap_runs(self, experiment: str, training_id: str, finished_run_id: str | None = None) -> list[str]:
        """End what still counts as running of a training whose processes are gone; returns the runs' ids.

        Runs and their child runs end as KILLED, but for `finished_run_id` and its own, which did all their work: as
        FINISHED, also where it was ended as killed before a later attempt carried its verdict out. Found by our tag,
        and by the MLproject's parameter for a run whose environment failed before our code ran.
        """
        reaped: dict[str, None] = {}
        with reaching(self._uri):
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                return []
            owned: dict[str, str] = {}
            for mark in (f"tags.`{TRAINING_TAG}`", f"params.`{_TRAINING_PARAMETER}`"):
                for run in self._client.search_runs([found.experiment_id], f"{mark} = '{training_id}'"):
                    owned[run.info.run_id] = run.info.status
            for run_id, status in owned.items():
                is_child = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}' and attributes.status = 'RUNNING'"
                children = self._client.search_runs([found.experiment_id], is_child)
                end = "FINISHED" if run_id == finished_run_id else "KILLED"
                is_left = status == "RUNNING" or (run_id == finished_run_id and status != end)
                for one in [*(child.info.run_id for child in children), *([run_id] if is_left else [])]:
                    self._client.set_terminated(one, end)
                    reaped[one] = None
        return list(reaped)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        with reaching(self._uri):
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_parameters(self, run_id: str, parameters: Mapping[str, object]) -> None:
        """Log parameters; MLflow refuses another value for one that the run has."""
        entries = [Param(name, str(value)) for name, value in parameters.items()]
        with reaching(self._uri):
            for first in range(0, len(entries), _PARAMETERS_A_CALL):
                self._client.log_batch(run_id, params=entries[first : first + _PARAMETERS_A_CALL])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log one value of each metric."""
        self._log(run_id, [(name, value, 0) for name, value in metrics.items()])

    def log_metric_history(self, run_id: str, history: Mapping[str, Sequence[float]]) -> None:
        """Log one value an epoch of each metric, the first as step 1: one call for each thousand values."""
        self._log(
            run_id, [(name, value, step) for name, values in history.items() for step, value in enumerate(values, 1)]
        )

    def log_daily_metric(self, run_id: str, name: str, values: Sequence[tuple[datetime, float]]) -> None:
        """Log one value a day, under the day's own time and the number of days since 1970 as its step.

        The same again adds nothing.
        """
        self._log_entries(
            run_id,
            [Metric(name, value, int(at.timestamp() * 1000), int(at.timestamp() // _DAY_S)) for at, value in values],
        )

    def _log(self, run_id: str, values: Sequence[tuple[str, float, int]]) -> None:
        now_ms = int(time.time() * 1000)
        self._log_entries(run_id, [Metric(name, value, now_ms, step) for name, value, step in values])

    def _log_entries(self, run_id: str, entries: Sequence[Metric]) -> None:
        with reaching(self._uri):
            for first in range(0, len(entries), _METRICS_A_CALL):
                self._client.log_batch(run_id, metrics=entries[first : first + _METRICS_A_CALL])

    def log_dataset(
        self,
        run_id: str,
        *,
        name: str,
        digest: str,
        source: str,
        rows: int,
        columns: Mapping[str, str],
        context: str,
    ) -> None:
        """Log a snapshot as the run's dataset under our own digest; MLflow's would read its first 10,000 rows only.

        `columns` gives each column's type. MLflow shows 36 characters of a digest; the profile has all.
        """
        dataset = Dataset(
            name=name,
            digest=digest[:_DIGEST_CHARS],
            source_type="snapshot",
            source=json.dumps({"uri": source}),
            schema=json.dumps(
                {
                    "mlflow_colspec": [
                        {"name": column, "type": kind, "required": True} for column, kind in columns.items()
                    ]
                }
            ),
            profile=json.dumps({"num_rows": rows, "digest": digest}),
        )
        with reaching(self._uri):
            self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])])

    # --- files ---------------------------------------------------------------------------------------------------

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Keep a file with the run, in `folder` of its artifacts."""
        with reaching(self._uri):
            self._client.log_artifact(run_id, str(path), folder)

    def log_artifacts(self, run_id: str, local: Path, folder: str) -> None:
        """Keep every file of the folder `local` with the run, in `folder` of its artifacts."""
        with reaching(self._uri):
            self._client.log_artifacts(run_id, str(local), folder)

    def log_document(self, run_id: str, document: Mapping[str, object], path: str) -> None:
        """Keep a JSON document at `path` of the run's artifacts."""
        with reaching(self._uri):
            self._client.log_dict(run_id, dict(document), path)

    def find_artifact(self, run_id: str, path: str, max_bytes: int) -> bytes | None:
        """The content of one of the run's artifacts; None if it is not there or larger than `max_bytes`."""
        folder, _, _ = path.rpartition("/")
        with reaching(self._uri):
            try:
                listed = self._client.list_artifacts(run_id, folder or None)
            except MlflowException as error:
                if not is_missing(error):
                    raise
                return None
            if not any(one.path == path and not one.is_dir and (one.file_size or 0) <= max_bytes for one in listed):
                return None
            with tempfile.TemporaryDirectory(prefix="millrace-") as place:
                return Path(self._client.download_artifacts(run_id, path, place)).read_bytes()

    def store_file(self, local: Path, name: str) -> str:
        """Keep a copy of the file under `name` in the artifact store, beside the runs; returns its address."""
        with tempfile.TemporaryDirectory(prefix="millrace-") as place, reaching(self._uri):
            # MLflow names what it stores after the local file.
            named = Path(place) / name
            named.symlink_to(local.absolute())
            files = get_artifact_repository(_FILES, tracking_uri=self._uri)
            files.log_artifact(str(named))  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
        return f"{_FILES}/{name}"

    def fetch_file(self, uri: str, local: Path) -> None:
        """Fetch a kept file to the path `local`, which appears only when it is complete; raises ArtifactNotFound."""
        folder, _, name = uri.rpartition("/")
        files = get_artifact_repository(folder, tracking_uri=self._uri)
        with tempfile.TemporaryDirectory(prefix=".millrace-", dir=local.parent) as place:
            try:
                with reaching(self._uri):
                    fetched = files.download_artifacts(name, dst_path=place)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
            except TrackingUnavailable as error:
                # MLflow words every failed download alike.
                with reaching(self._uri):
                    is_there = any(one.path == name for one in files.list_artifacts())
                if is_there:
                    raise
                raise ArtifactNotFound(uri) from error
            Path(fetched).replace(local)
