"""Loading versions into the pool: from the cache, downloaded where they are not there, never one that cannot answer."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import MillraceError, VersionNotReady
from core.serving_errors import RuntimeMissing
from core.settings import Settings
from serving.journal import Journal
from serving.loading import LoadedVersion, load_version
from serving.metrics import Metrics
from serving.model_pool import ModelPool
from serving.registry_client import RegistryClient
from serving.version_cache import VersionCache

logger = logging.getLogger(__name__)


class VersionLoader:
    """Loads versions from any thread, each once at a time; `registry` is set as soon as its client is there."""

    def __init__(self, settings: Settings, pool: ModelPool, journal: Journal, metrics: Metrics) -> None:
        self.registry: RegistryClient | None = None
        self._pool = pool
        self._journal = journal
        self._metrics = metrics
        self._cache = VersionCache(settings.versions_folder, settings.version_cache_max_bytes)
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, int], threading.Lock] = {}
        self._waiting: Counter[tuple[str, int]] = Counter()

    def is_cached(self, model: str, version: int) -> bool:
        """Whether the version can be loaded with everything else away."""
        return self._cache.find(model, version) is not None

    def load(self, model: str, version: int) -> LoadedVersion:
        """The version, loaded beside those that serve if it is not loaded yet.

        Raises VersionNotReady where it cannot serve, ModelVersionNotFound, TrackingUnavailable.
        """
        with self._taking_turns(model, version):
            loaded = self._pool.find_loaded(model, version)
            if loaded is not None:
                return loaded
            started_s = time.perf_counter()
            loaded = self._load(model, version)
            self._metrics.observe_load(model, time.perf_counter() - started_s)
            return loaded

    def get(self, model: str, version: int) -> LoadedVersion:
        """The same, for a request: the version stays loaded for the next one."""
        loaded = self.load(model, version)
        self._pool.keep_asked_for(loaded)
        return loaded

    @contextmanager
    def _taking_turns(self, model: str, version: int) -> Iterator[None]:
        """One thread at a time for each version: what is slow to come, or never comes, holds up no other."""
        key = (model, version)
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
            self._waiting[key] += 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                self._waiting[key] -= 1
                if not self._waiting[key]:
                    del self._turns[key], self._waiting[key]

    def _load(self, model: str, version: int) -> LoadedVersion:
        cached = self._cache.find(model, version)
        if cached is not None:
            try:
                return self._load_folder(cached, model, version)
            except RuntimeMissing as error:
                raise VersionNotReady(model, version, error.sentence.removesuffix(".")) from error
            except MillraceError as error:
                logger.warning("the cached version %s of %s is damaged: %s", version, model, error)
        if self.registry is None:
            raise VersionNotReady(model, version, "the registry has not been reached yet")
        if cached is not None:
            self._cache.drop(model, version)
        try:
            folder = self._cache.get(model, version, self.registry)
        except OSError as error:
            raise VersionNotReady(model, version, f"it cannot be stored: {error.strerror}") from error
        with self._lock:
            in_loading = set(self._turns)
        self._cache.shrink(self._pool.get_numbers() | in_loading)
        try:
            return self._load_folder(folder, model, version)
        except RuntimeMissing as error:
            raise VersionNotReady(model, version, error.sentence.removesuffix(".")) from error
        except MillraceError as error:
            self._cache.drop(model, version)
            logger.warning("the downloaded version %s of %s was refused: %s", version, model, error)
            raise VersionNotReady(model, version, _hide_folder(error.sentence, folder)) from error

    def _load_folder(self, folder: Path, model: str, version: int) -> LoadedVersion:
        loaded = load_version(folder, model, version)
        self._journal.keep_reference(model, version, loaded.reference)
        return loaded


def _hide_folder(sentence: str, folder: Path) -> str:
    for path in {str(folder), str(folder.resolve())}:
        sentence = sentence.replace(path, "the version")
    return sentence
