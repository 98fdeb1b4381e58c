"""The model registry: which versions there are, which one is in Production, and their files.

Needs `mlflow-skinny` only, and loads it for what needs more than a call or two of the server's REST API: registering a
version and fetching its files. Stages are MLflow's own words; changes of stage are made by `core.stage_moves` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core.errors import ModelVersionNotFound
from core.mlflow_rest import Document, MlflowRest, RefusedByMlflow
from core.names import check_name

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

PRODUCTION_STAGE = "Production"
STAGING_STAGE = "Staging"
ARCHIVED_STAGE = "Archived"
PRODUCTION_ALIAS = "production"
"""Mirrors stage Production, for MLflow's newer pages and clients."""

_TIMEOUT_S = 10
_MODELS_A_CALL = 1000
_VERSIONS_A_CALL = 1000


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

    Of several versions in a stage the highest counts, as it does for MLflow's `models:/<model>/Production`.
    """

    production: int | None
    alias: int | None
    staging: int | None = None

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
        self._rest = MlflowRest(tracking_uri, _TIMEOUT_S)

    def load_versions(self, model: str) -> list[RegisteredVersion]:
        """All versions of the model, newest first; none if the registry does not know the model."""
        check_name("model", model)
        found = self._search("model-versions", "model_versions", _VERSIONS_A_CALL, f"name = '{model}'")
        return sorted((_build(entity) for entity in found), key=lambda one: one.version, reverse=True)

    def load_all_versions(self) -> list[RegisteredVersion]:
        """All versions of all models, also of those that are no workload's."""
        return [_build(entity) for entity in self._search("model-versions", "model_versions", _VERSIONS_A_CALL)]

    def load_versions_from(self, owner: str) -> list[RegisteredVersion]:
        """The versions whose source names this run or logged model, by its id."""
        found = self._search("model-versions", "model_versions", _VERSIONS_A_CALL, f"source_path LIKE '%{owner}%'")
        return [_build(entity) for entity in found]

    def load_aliases(self) -> dict[tuple[str, int], list[str]]:
        """The aliases of every version that has one, by model and version."""
        aliases: dict[tuple[str, int], list[str]] = {}
        for entity in self._search("registered-models", "registered_models", _MODELS_A_CALL):
            for one in _list(entity, "aliases"):
                aliases.setdefault((str(entity["name"]), int(str(one["version"]))), []).append(str(one["alias"]))
        return aliases

    def get_version(self, model: str, version: int) -> RegisteredVersion:
        """That version; raises ModelVersionNotFound, naming those that exist."""
        check_name("model", model)
        with self._finding(model, version):
            found = self._rest.get("model-versions/get", name=model, version=version)
        return _build(_get(found, "model_version"))

    def find_production(self, model: str) -> RegisteredVersion | None:
        """The version in stage Production, the highest if a person left several there."""
        check_name("model", model)
        entity = self._find_model(model)
        return None if entity is None else _find_in_stage(entity, PRODUCTION_STAGE)

    def load_production_versions(self) -> dict[str, int]:
        """The version in Production of every model that has one: one call for each thousand models."""
        return {
            model: standing.production
            for model, standing in self.load_standings().items()
            if standing.production is not None
        }

    def load_standings(self) -> dict[str, Standing]:
        """The standing of every registered model: one call for each thousand models."""
        found = self._search("registered-models", "registered_models", _MODELS_A_CALL)
        return {str(entity["name"]): _build_standing(entity) for entity in found}

    def load_standing(self, model: str) -> Standing:
        """The standing of one model; empty if the registry does not know it."""
        check_name("model", model)
        entity = self._find_model(model)
        return Standing(None, None) if entity is None else _build_standing(entity)

    def register(self, model: str, run_id: str, source: str, tags: Mapping[str, str]) -> RegisteredVersion:
        """Add the next version of the model, made by the run from the files at `source`; it is in no stage.

        `source` is a logged model (`models:/m-…`) or the address of its files.
        """
        # The library finds the files behind either form of address. Its import takes seconds.
        from core.mlflow_client import build_client, reaching

        check_name("model", model)
        try:
            self._rest.post("registered-models/create", name=model)
        except RefusedByMlflow as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        client = build_client(self._uri, _TIMEOUT_S)
        with reaching(self._uri):
            # With the logged model's id its page and the run's link the version.
            logged = source.removeprefix("models:/") if source.startswith("models:/m-") else None
            entity = client.create_model_version(
                model, source, run_id, dict(tags), await_creation_for=0, model_id=logged
            )
        return self.get_version(model, int(entity.version))

    def delete_version(self, model: str, version: int) -> None:
        """Take the version out of the registry; its run and files stay. Raises ModelVersionNotFound."""
        check_name("model", model)
        with self._finding(model, version):
            self._rest.delete("model-versions/delete", name=model, version=str(version))

    def download(self, model: str, version: int, folder: Path) -> None:
        """Fetch the version's files into `folder`, which exists and is empty, through the tracking server's proxy.

        Raises ModelVersionNotFound. Whether the files are complete is for `core.model_directory` to check.
        """
        with self._opening_files(model, version) as files:
            files.download_artifacts("", dst_path=str(folder))  # type: ignore[no-untyped-call]  # MLflow leaves it untyped

    def download_file(self, model: str, version: int, path: str, folder: Path) -> bool:
        """Fetch one of the version's files into `folder`; whether the version has it. Raises ModelVersionNotFound."""
        with self._opening_files(model, version) as files:
            if path not in {entry.path for entry in files.list_artifacts("")}:
                return False
            files.download_artifacts(path, dst_path=str(folder))  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
        return True

    def move_to_production(self, model: str, version: int) -> None:
        """Put the version in stage Production and archive the others there, in one step of MLflow's."""
        self.move_to_stage(model, version, PRODUCTION_STAGE)

    def move_to_stage(self, model: str, version: int, stage: str) -> None:
        """Put the version in that stage; one that takes Production archives those that are there, in the same step."""
        with self._finding(model, version):
            self._rest.post(
                "model-versions/transition-stage",
                name=model,
                version=str(version),
                stage=stage,
                archive_existing_versions=stage == PRODUCTION_STAGE,
            )

    def set_alias(self, model: str, version: int | None) -> None:
        """Let alias `production` name the version, or nothing."""
        if version is None:
            self._rest.delete("registered-models/alias", name=model, alias=PRODUCTION_ALIAS)
        else:
            self._rest.post("registered-models/alias", name=model, alias=PRODUCTION_ALIAS, version=str(version))

    @contextmanager
    def _opening_files(self, model: str, version: int) -> "Iterator[ArtifactRepository]":
        """The version's files, where MLflow keeps them."""
        check_name("model", model)
        with self._finding(model, version):
            found = self._rest.get("model-versions/get-download-uri", name=model, version=version)
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        from core.mlflow_client import build_client, reaching

        # Its settings count for the library's own calls below.
        build_client(self._uri, _TIMEOUT_S)
        with reaching(self._uri):
            yield get_artifact_repository(str(found["artifact_uri"]), tracking_uri=self._uri)

    def _search(self, subject: str, member: str, most_a_call: int, matching: str | None = None) -> list[Document]:
        """What the search for `subject` finds, of all pages; `member` is where the answer has it."""
        found: list[Document] = []
        token: str | None = None
        while True:
            page = self._rest.get(f"{subject}/search", filter=matching, max_results=most_a_call, page_token=token)
            found += _list(page, member)
            token = _find_text(page, "next_page_token")
            if token is None:
                return found

    def _find_model(self, model: str) -> Document | None:
        try:
            return _get(self._rest.get("registered-models/get", name=model), "registered_model")
        except RefusedByMlflow as error:
            if not error.is_missing:
                raise
            return None

    @contextmanager
    def _finding(self, model: str, version: int) -> Iterator[None]:
        try:
            yield
        except RefusedByMlflow as error:
            if not error.is_missing:
                raise
            existing = [str(one.version) for one in self.load_versions(model)]
            raise ModelVersionNotFound(model, str(version), existing) from error


def _build(entity: Document) -> RegisteredVersion:
    return RegisteredVersion(
        model=str(entity["name"]),
        version=int(str(entity["version"])),
        stage=_find_text(entity, "current_stage") or "None",
        run_id=_find_text(entity, "run_id") or "",
        source=_find_text(entity, "source") or "",
        created_at=datetime.fromtimestamp(int(str(entity["creation_timestamp"])) / 1000, UTC),
        tags={str(tag["key"]): str(tag.get("value", "")) for tag in _list(entity, "tags")},
    )


def _find_in_stage(entity: Document, stage: str) -> RegisteredVersion | None:
    versions = [_build(version) for version in _list(entity, "latest_versions")]
    return max((one for one in versions if one.stage == stage), key=lambda one: one.version, default=None)


def _build_standing(entity: Document) -> Standing:
    production, staging = (_find_in_stage(entity, stage) for stage in (PRODUCTION_STAGE, STAGING_STAGE))
    aliases = {str(one["alias"]): int(str(one["version"])) for one in _list(entity, "aliases")}
    return Standing(
        production=None if production is None else production.version,
        alias=aliases.get(PRODUCTION_ALIAS),
        staging=None if staging is None else staging.version,
    )


# MLflow leaves out of a document what is empty.


def _get(document: Document, name: str) -> Document:
    return cast(Document, document[name])


def _list(document: Document, name: str) -> Sequence[Document]:
    return cast(Sequence[Document], document.get(name, ()))


def _find_text(document: Document, name: str) -> str | None:
    found = document.get(name)
    return str(found) if found else None
