"""Every file of the artifact store, runs' and snapshots' alike: listed, fetched, stored."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from core.mlflow_client import build_client, reaching
from core.settings import S3_SCHEME, Settings
from core.tracking_server import is_tracking_ready

_TIMEOUT_S = 300
_SERVED = "mlflow-artifacts:/"


class ArtifactStore:
    """A store with all that is in it, by path from its root.

    Methods raise TrackingUnavailable where it cannot be reached.
    """

    def __init__(self, address: str, files: ArtifactRepository) -> None:
        self.address = address
        self._files = files

    def list_files(self) -> Iterator[tuple[str, int]]:
        """The path and the size in bytes of every file."""
        folders: list[str | None] = [None]
        while folders:
            with reaching(self.address):
                found = self._files.list_artifacts(folders.pop())
            for one in found:
                if one.is_dir:
                    folders.append(one.path)
                else:
                    yield one.path, int(one.file_size or 0)

    @contextmanager
    def fetching(self, path: str) -> Iterator[Path]:
        """A local copy of the file at `path`, for the block."""
        with tempfile.TemporaryDirectory(prefix="millrace-artifact-") as place:
            with reaching(self.address):
                fetched = self._files.download_artifacts(path, dst_path=place)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
            yield Path(fetched)

    def store(self, local: Path, path: str) -> None:
        """Keep a copy of the local file at `path`; what is there is replaced. The two have the same last name."""
        folder, _, name = path.rpartition("/")
        if name != local.name:
            raise ValueError(f"{local.name} is to be kept as {name}")
        with reaching(self.address):
            self._files.log_artifact(str(local), folder or None)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped


def open_artifacts(settings: Settings) -> ArtifactStore:
    """The store through the tracking server, which alone has the keys of S3; where none runs, opened as it would."""
    address = settings.tracking_address
    if settings.tracking_uri is None and not is_tracking_ready(address):
        return open_own_artifacts(settings)
    build_client(address, _TIMEOUT_S)
    return ArtifactStore(address, get_artifact_repository(_SERVED, tracking_uri=address))


def open_own_artifacts(settings: Settings) -> ArtifactStore:
    """The store that the settings name, opened with this process's own keys, as the tracking server opens it."""
    if not settings.artifacts.startswith(S3_SCHEME):
        Path(settings.artifacts).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return ArtifactStore(settings.artifacts, get_artifact_repository(settings.artifacts))


def describe_fault(error: Exception) -> str:
    """A store's refusal (no such bucket, no keys) in its first line, which has no path and no secret."""
    text = str(error) if isinstance(error, MlflowException) else f"{type(error).__name__}: {error}"
    return (text.splitlines() or [type(error).__name__])[0][:300]
