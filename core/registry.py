"""The model registry: which versions there are, which one is in Production, and their files.

Needs `mlflow-skinny` only. Stages are MLflow's own words; changes of stage are made by `core.promotion` alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from core.errors import ModelVersionNotFound
from core.mlflow_client import build_client, is_missing, is_present_already, reaching, without_stage_warning
from core.names import check_name

PRODUCTION_STAGE = "Production"
PRODUCTION_ALIAS = "production"
"""Mirrors stage Production, for MLflow's newer pages and clients."""

_TIMEOUT_S = 10
_MODELS_A_CALL = 1000


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a model; `stage` is None, Staging, Production or Archived, as MLflow words them."""

    model: str
    version: int
    stage: str
    run_id: str
    source: str
    created_at: datetime
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Standing:
    """What the registry says of a model: its version in stage Production, and the one that the alias names.

    Of several versions in Production the highest counts, as it does for MLflow's `models:/<model>/Production`.
    """

    production: int | None
    alias: int | None

    @property
    def is_aligned(self) -> bool:
        return self.production == self.alias


class Registry:
    """The registry of one tracking server; safe to share between threads.

    Every method raises TrackingUnavailable when the server is away: after three seconds if nothing listens there,
    after three time-outs of 10 s if it accepts and never answers.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._client = build_client(tracking_uri, _TIMEOUT_S)

    def load_versions(self, model: str) -> list[RegisteredVersion]:
        """All versions of the model, newest first; none if the registry does not know the model."""
        check_name("model", model)
        found: list[ModelVersion] = []
        token: str | None = None
        with reaching(self._uri):
            while True:
                page = self._client.search_model_versions(f"name = '{model}'", page_token=token)
                found.extend(page)
                token = page.token
                if not token:
                    return sorted((_build(entity) for entity in found), key=lambda one: one.version, reverse=True)

    def get_version(self, model: str, version: int) -> RegisteredVersion:
        """That version; raises ModelVersionNotFound, naming those that exist."""
        check_name("model", model)
        with self._finding(model, version), reaching(self._uri):
            return _build(self._client.get_model_version(model, str(version)))

    def find_production(self, model: str) -> RegisteredVersion | None:
        """The version in stage Production, the highest if a person left several there."""
        check_name("model", model)
        entity = self._find_model(model)
        return None if entity is None else _find_production(entity)

    def load_production_versions(self) -> dict[str, int]:
        """The version in Production of every model that has one: one call for each thousand models."""
        return {
            model: standing.production
            for model, standing in self.load_standings().items()
            if standing.production is not None
        }

    def load_standings(self) -> dict[str, Standing]:
        """The standing of every registered model: one call for each thousand models."""
        standings: dict[str, Standing] = {}
        token: str | None = None
        with reaching(self._uri):
            while True:
                page = self._client.search_registered_models(max_results=_MODELS_A_CALL, page_token=token)
                standings.update({entity.name: _build_standing(entity) for entity in page})
                token = page.token
                if not token:
                    return standings

    def load_standing(self, model: str) -> Standing:
        """The standing of one model; empty if the registry does not know it."""
        check_name("model", model)
        entity = self._find_model(model)
        return Standing(None, None) if entity is None else _build_standing(entity)

    def register(self, model: str, run_id: str, source: str, tags: Mapping[str, str]) -> RegisteredVersion:
        """Add the next version of the model, made by the run from the files at `source`; it is in no stage.

        `source` is a logged model (`models:/m-…`) or the address of its files.
        """
        check_name("model", model)
        with reaching(self._uri):
            try:
                self._client.create_registered_model(model)
            except MlflowException as error:
                if not is_present_already(error):
                    raise
            # With the logged model's id its page and the run's link the version.
            logged = source.removeprefix("models:/") if source.startswith("models:/m-") else None
            entity = self._client.create_model_version(
                model, source, run_id, dict(tags), await_creation_for=0, model_id=logged
            )
            return _build(entity)

    def delete_version(self, model: str, version: int) -> None:
        """Take the version out of the registry; its run and files stay. Raises ModelVersionNotFound."""
        check_name("model", model)
        with self._finding(model, version), reaching(self._uri):
            self._client.delete_model_version(model, str(version))

    def download(self, model: str, version: int, folder: Path) -> None:
        """Fetch the version's files into `folder`, which exists and is empty, through the tracking server's proxy.

        Raises ModelVersionNotFound. Whether the files are complete is for `core.model_directory` to check.
        """
        check_name("model", model)
        with self._finding(model, version), reaching(self._uri):
            source = self._client.get_model_version_download_uri(model, str(version))
        with reaching(self._uri):
            files = get_artifact_repository(source, tracking_uri=self._uri)
            files.download_artifacts("", dst_path=str(folder))  # type: ignore[no-untyped-call]  # MLflow leaves it untyped

    def move_to_production(self, model: str, version: int) -> None:
        """Put the version in stage Production and archive the others there, in one step of MLflow's."""
        with self._finding(model, version), reaching(self._uri), without_stage_warning():
            self._client.transition_model_version_stage(
                model, str(version), PRODUCTION_STAGE, archive_existing_versions=True
            )

    def set_alias(self, model: str, version: int | None) -> None:
        """Let alias `production` name the version, or nothing."""
        with reaching(self._uri):
            if version is None:
                self._client.delete_registered_model_alias(model, PRODUCTION_ALIAS)
            else:
                self._client.set_registered_model_alias(model, PRODUCTION_ALIAS, str(version))

    def _find_model(self, model: str) -> RegisteredModel | None:
        try:
            with reaching(self._uri):
                return self._client.get_registered_model(model)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return None

    @contextmanager
    def _finding(self, model: str, version: int) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            if not is_missing(error):
                raise
            existing = [str(one.version) for one in self.load_versions(model)]
            raise ModelVersionNotFound(model, str(version), existing) from error


def _build(entity: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        model=entity.name,
        version=int(entity.version),
        stage=entity.current_stage or "None",
        run_id=entity.run_id or "",
        source=entity.source or "",
        created_at=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
        tags=dict(entity.tags),
    )


def _find_production(entity: RegisteredModel) -> RegisteredVersion | None:
    versions = [_build(version) for version in entity.latest_versions if version.current_stage == PRODUCTION_STAGE]
    return max(versions, key=lambda one: one.version, default=None)


def _build_standing(entity: RegisteredModel) -> Standing:
    production = _find_production(entity)
    alias = entity.aliases.get(PRODUCTION_ALIAS)
    return Standing(None if production is None else production.version, None if alias is None else int(alias))
