"""Runs as they are kept: listed for a clean-up, and removed with their files.

MLflow's `gc` is not called: beside what it is given it deletes for good every experiment and logged model that anyone
has marked as deleted. Here the files go, which is what takes the room, and the run is marked as deleted; its metrics
stay in MLflow's database until an operator runs `mlflow gc`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from core.mlflow_client import build_client, is_missing, reaching
from core.tracking import TRAINING_TAG

_TIMEOUT_S = 300
_A_CALL = 1000
_LOGGED_A_CALL = 100
_OUR_TAGS = "millrace."
_RUNNING = ("RUNNING", "SCHEDULED")


@dataclass(frozen=True)
class StoredRun:
    """One run of an experiment; `logged_models` are MLflow's ids of the models that it logged."""

    run_id: str
    parent_id: str | None
    training_id: str | None
    is_ours: bool
    is_running: bool
    last_at: datetime
    snapshot_uris: tuple[str, ...]
    logged_models: tuple[str, ...]


class StoredRuns:
    """The runs behind one tracking server. Every method raises TrackingUnavailable when it is away."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._client: MlflowClient = build_client(tracking_uri, _TIMEOUT_S)

    def load(self, experiment: str) -> list[StoredRun]:
        """The runs of the experiment that are not marked as deleted; none where there is no such experiment."""
        with reaching(self._uri):
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                return []
            logged: dict[str, list[str]] = {}
            for model in self._list_models(found.experiment_id):
                logged.setdefault(str(model.source_run_id), []).append(model.model_id)
            return [_build(run, logged.get(run.info.run_id, ())) for run in self._list_runs(found.experiment_id)]

    def measure(self, run: StoredRun) -> int:
        """Bytes of the run's files and of the models that it logged."""
        with reaching(self._uri):
            return sum(_measure(files) for files in self._open(run))

    def remove(self, run: StoredRun) -> None:
        """Remove the files of the run and of its models and mark all of them as deleted, the run itself last.

        One that was interrupted in between is found again and removed by the same call: no store minds what is gone.
        """
        with reaching(self._uri):
            for files in self._open(run):
                files.delete_artifacts()  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
            for model_id in run.logged_models:
                with _ignoring_missing():
                    self._client.delete_logged_model(model_id)
            with _ignoring_missing():
                self._client.delete_run(run.run_id)

    def remove_artifact(self, run_id: str, path: str) -> None:
        """Remove what the run keeps at `path`; nothing happens where there is nothing."""
        with reaching(self._uri), _ignoring_missing():
            run = self._client.get_run(run_id)
            files = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=self._uri)
            files.delete_artifacts(path)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped

    def remove_file(self, uri: str) -> None:
        """Remove a file that is kept beside the runs."""
        folder, _, name = uri.rpartition("/")
        with reaching(self._uri):
            get_artifact_repository(folder, tracking_uri=self._uri).delete_artifacts(name)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped

    def _open(self, run: StoredRun) -> Iterator[ArtifactRepository]:
        with _ignoring_missing():
            found = self._client.get_run(run.run_id)
            yield get_artifact_repository(str(found.info.artifact_uri), tracking_uri=self._uri)
        for model_id in run.logged_models:
            with _ignoring_missing():
                model = self._client.get_logged_model(model_id)
                yield get_artifact_repository(str(model.artifact_location), tracking_uri=self._uri)

    def _list_runs(self, experiment_id: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], max_results=_A_CALL, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _list_models(self, experiment_id: str) -> Iterator[LoggedModel]:
        token: str | None = None
        while True:
            page = self._client.search_logged_models([experiment_id], max_results=_LOGGED_A_CALL, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _build(run: Run, logged_models: "list[str] | tuple[str, ...]") -> StoredRun:
    tags = run.data.tags
    last_ms = run.info.end_time or run.info.start_time or 0
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    return StoredRun(
        run_id=run.info.run_id,
        parent_id=tags.get(MLFLOW_PARENT_RUN_ID),
        training_id=tags.get(TRAINING_TAG),
        is_ours=any(name.startswith(_OUR_TAGS) for name in tags),
        is_running=run.info.status in _RUNNING,
        last_at=datetime.fromtimestamp(last_ms / 1000, UTC),
        snapshot_uris=tuple(uri for one in inputs if (uri := _find_uri(one.dataset.source)) is not None),
        logged_models=tuple(logged_models),
    )


def _find_uri(source: str) -> str | None:
    """The address of a dataset that the platform has logged; a person's may be anything."""
    try:
        document = json.loads(source)
    except ValueError:
        return None
    return str(document["uri"]) if isinstance(document, dict) and "uri" in document else None


def _measure(files: ArtifactRepository) -> int:
    total = 0
    folders: list[str | None] = [None]
    while folders:
        for one in files.list_artifacts(folders.pop()):
            if one.is_dir:
                folders.append(one.path)
            else:
                total += int(one.file_size or 0)
    return total


@contextmanager
def _ignoring_missing() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if not is_missing(error):
            raise
