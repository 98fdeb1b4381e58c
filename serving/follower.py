"""Follows the registry: what each model's target means is what serves it, within a second or two, without a restart.

Our own transitions and targets are notified by the database; what a person moves in MLflow is seen by one look at the
registry a second. While the registry, the database or the artifacts are away, what serves keeps serving.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from core.account_changes import ACCOUNTS_CHANNEL
from core.database import TRANSITIONS_CHANNEL
from core.errors import (
    ModelNotFound,
    ModelVersionNotFound,
    NoProductionVersion,
    Unavailable,
    VersionNotReady,
)
from core.settings import Settings
from core.targets import LATEST, PRODUCTION
from serving.documented import DocumentedRoutes
from serving.listener import NotificationListener
from serving.loading import LoadedVersion
from serving.metrics import Metrics
from serving.model_pool import ModelPool
from serving.outages import Outage
from serving.registry_client import OpenRegistry
from serving.resolution import (
    Resolved,
    Wanted,
    load_last_resolved,
    load_latest,
    load_named,
    load_wanted,
    resolve,
    store_last_resolved,
)
from serving.version_alerts import VersionAlerts
from serving.version_loader import VersionLoader
from web.health import HealthCheck

logger = logging.getLogger(__name__)

_RETRY_FAILED_S = 30.0
_STOP_TIMEOUT_S = 10.0
_KEEPS_SERVING = "What serves keeps serving"


@dataclass(frozen=True)
class Failure:
    """A version that should serve and does not: `reason` names no path. It is tried again after a while."""

    version: int
    reason: str
    failed_at: datetime
    retry_at_s: float


class Follower:
    """One thread that resolves, loads and swaps, and one that listens for notifications.

    `wake_accounts` is called when accounts were changed: the connection that listens serves both.
    """

    def __init__(
        self,
        settings: Settings,
        database_url: str,
        engine: Engine,
        *,
        pool: ModelPool,
        loader: VersionLoader,
        metrics: Metrics,
        open_registry: OpenRegistry,
        wake_accounts: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._pool = pool
        self._loader = loader
        self._metrics = metrics
        self._open_registry = open_registry
        self._folder = settings.versions_folder
        self._production: dict[str, int] = {}
        self._wanted: Wanted | None = None
        self._resolved: dict[str, Resolved] = {}
        self._failures: dict[str, Failure] = {}
        self._alerts = VersionAlerts(engine)
        self._documented = DocumentedRoutes()
        self._has_looked = False
        self._is_settled = False
        self._fault = ""
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._tracking = Outage("the MLflow tracking server", _KEEPS_SERVING)
        self._database = Outage("the database", _KEEPS_SERVING)
        self._artifacts = Outage("the store of model versions", _KEEPS_SERVING)
        self._is_download_waiting = False
        wakes = {TRANSITIONS_CHANNEL: self._woken.set, ACCOUNTS_CHANNEL: wake_accounts}
        self._notifications = NotificationListener(database_url, wakes, settings.follow_interval_s)
        self._threads = [
            threading.Thread(target=self._run, name="follower", daemon=True),
            threading.Thread(
                target=self._notifications.run, args=(self._stopping,), name="follower-notifications", daemon=True
            ),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()
        for thread in self._threads:
            thread.join(_STOP_TIMEOUT_S)

    # --- what requests ask ---------------------------------------------------------------------------------------

    @property
    def documented(self) -> DocumentedRoutes:
        """Documented routes of the versions that serve, and of declared models that nothing serves yet."""
        return self._documented

    def load_known_models(self) -> list[str]:
        """Names of the models that are declared or served, sorted."""
        declared = self._wanted.targets if self._wanted else {}
        return sorted({*declared, *self._resolved})

    def find_serving(self, model: str) -> LoadedVersion | None:
        """The version that serves the model, if it is loaded: at once."""
        return self._pool.find_serving(model)

    def find_served_version(self, model: str) -> int | None:
        """The number of the version that serves the model, loaded or not at the moment."""
        return self._pool.get_slot(model).version

    def get_serving(self, model: str) -> LoadedVersion:
        """The version that serves the model, loaded again first where it was unloaded.

        Raises ModelNotFound, NoProductionVersion, VersionNotReady.
        """
        loaded = self._pool.find_serving(model)
        if loaded is not None:
            return loaded
        version = self._pool.get_slot(model).version
        if version is not None:
            return self._loader.get(model, version)
        failure = self._failures.get(model)
        resolved = self._resolved.get(model)
        target = resolved.target if resolved else self._get_target(model)
        if target is None:
            if not self._has_looked:
                raise NoProductionVersion(model)
            raise ModelNotFound(model, self.load_known_models())
        if failure is not None and resolved is not None and resolved.version == failure.version:
            raise VersionNotReady(model, failure.version, failure.reason)
        raise NoProductionVersion(model, target)

    def find_loaded(self, model: str, version: int) -> LoadedVersion | None:
        """Exactly that version, if it is loaded."""
        return self._pool.find_loaded(model, version)

    def get_version(self, model: str, version: int | str) -> LoadedVersion:
        """Exactly that version, `Production` or `latest`, loaded first where it is not; never another in its place.

        Raises ModelNotFound, ModelVersionNotFound, TrackingUnavailable, DatabaseUnavailable, VersionNotReady. Takes as
        long as a download.
        """
        loaded = self._pool.find_loaded(model, version) if isinstance(version, int) else None
        if loaded is not None:
            return loaded
        if model not in self.load_known_models():
            raise ModelNotFound(model, self.load_known_models())
        return self._loader.get(model, version if isinstance(version, int) else self._resolve_word(model, version))

    def find_resolved(self, model: str) -> Resolved | None:
        """What the model's target means; None before that is known."""
        return self._resolved.get(model)

    def find_failure(self, model: str) -> Failure | None:
        """The version that should serve the model and does not."""
        return self._failures.get(model)

    def build_checks(self) -> list[HealthCheck]:
        """Health of following: threads, the first look, what is away, and every model."""
        checks = [self._check_threads(), *self._check_outages()]
        for model in self.load_known_models():
            checks.append(self._check_model(model))
        return checks

    # --- following -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._attempt(self._restore)
        while not self._stopping.is_set():
            self._woken.clear()
            self._attempt(self._look)
            self._woken.wait(self._settings.follow_interval_s)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            # Whatever it is, what serves keeps serving, and the next look may succeed. It is logged once.
            if not self._fault:
                logger.exception("following the registry failed")
            self._fault = "the last look at the registry failed, the log says why"
        else:
            self._fault = ""

    def _restore(self) -> None:
        """Serve what served last, from the cache alone."""
        for model, resolved in load_last_resolved(self._folder).items():
            if resolved.version is not None and self._loader.is_cached(model, resolved.version):
                self._follow(model, resolved)
        self._settle()
        self._publish()

    def _look(self) -> None:
        wanted = self._load_wanted()
        production = self._load_production()
        self._is_download_waiting = False
        if wanted is not None:
            self._wanted = wanted
        if production is not None:
            self._production = production
        if self._wanted is not None:
            for model, resolved in resolve(self._wanted, production).items():
                self._follow(model, resolved)
        elif production is not None:
            # The database has not said yet what the targets are: those known from the last time.
            for model, last in list(self._resolved.items()):
                if last.target == "Production":
                    self._follow(model, replace(last, version=production.get(model)))
        if not self._is_download_waiting:
            self._artifacts.end()
        self._has_looked = self._has_looked or (wanted is not None and production is not None)
        self._settle()
        self._publish()
        self._tell()

    def _settle(self) -> None:
        # Not before every model had its turn: what was loaded first would be called ready for all of them.
        self._is_settled = self._is_settled or self._has_looked or bool(self._resolved)

    def _tell(self) -> None:
        try:
            self._alerts.store()
        except OperationalError as error:
            self._database.begin(error)

    def _load_wanted(self) -> Wanted | None:
        try:
            wanted = load_wanted(self._engine)
        except OperationalError as error:
            self._database.begin(error)
            return None
        self._database.end()
        return wanted

    def _load_production(self) -> dict[str, int] | None:
        try:
            if self._loader.registry is None:
                self._loader.registry = self._open_registry(self._settings)
            production = self._loader.registry.load_production_versions()
        except Unavailable as error:
            self._tracking.begin(error)
            return None
        self._tracking.end()
        return production

    def _follow(self, model: str, resolved: Resolved) -> None:
        version = resolved.version
        serving = self._pool.get_slot(model).version
        self._resolved[model] = resolved
        if version is None:
            self._recover(model, f"target {resolved.target} means no version")
            if serving is not None:
                logger.warning("nothing serves %s: target %s means no version", model, resolved.target)
                self._clear(model)
            return
        if serving == version:
            self._recover(model, f"version {version} serves")
            return
        failure = self._failures.get(model)
        if failure is None or failure.version != version or time.monotonic() >= failure.retry_at_s:
            self._change(model, resolved, version)

    def _change(self, model: str, resolved: Resolved, version: int) -> None:
        started_s = time.perf_counter()
        try:
            loaded = self._loader.load(model, version)
        except ModelVersionNotFound as error:
            # A pinned version that does not exist is an error, and never answered by another one.
            self._fail(model, version, error.sentence)
            if resolved.target not in (PRODUCTION, LATEST):
                self._clear(model)
        except Unavailable as error:
            if isinstance(error, VersionNotReady):
                self._fail(model, version, error.sentence)
            else:
                self._is_download_waiting = True
                self._artifacts.begin(error)
        except Exception:
            # One version that breaks the loader in a new way must not keep the other models from being followed.
            logger.exception("loading version %s of %s failed", version, model)
            self._fail(model, version, "loading it failed, the log says why")
        else:
            self._failures.pop(model, None)
            self._alerts.note_end(model, f"version {version} serves")
            replaced = self._pool.get_slot(model).version
            self._pool.swap(loaded)
            self._metrics.observe_swap(model, version, replaced, time.perf_counter() - started_s)
            logger.info("version %s serves %s, target %s", version, model, resolved.target)

    def _recover(self, model: str, reason: str) -> None:
        # A process that failed may have ended before this one began.
        if self._failures.pop(model, None) is not None or not self._has_looked:
            self._alerts.note_end(model, reason)

    def _clear(self, model: str) -> None:
        serving = self._pool.get_slot(model).version
        self._pool.clear(model)
        if serving is not None:
            self._metrics.note_cleared(model, serving)

    def _fail(self, model: str, version: int, reason: str) -> None:
        # Before the registry's client is there, a damaged copy could not be downloaded again.
        wait_s = 0.0 if self._loader.registry is None else _RETRY_FAILED_S
        failure = Failure(version, reason, datetime.now(UTC), time.monotonic() + wait_s)
        self._failures[model] = failure
        serving = self._pool.get_slot(model).version
        if self._loader.registry is not None:
            self._alerts.note_failure(model, version, reason, serving)
        stays = f"version {serving} keeps serving" if serving else "nothing serves it"
        logger.error("version %s of %s cannot serve, %s: %s", version, model, stays, reason)

    def _resolve_word(self, model: str, word: str) -> int:
        version = None
        if word == PRODUCTION:
            version = self._production.get(model)
            resolved = self._resolved.get(model)
            if version is None and resolved is not None and resolved.target == PRODUCTION:
                # The registry has not been reached since the start.
                version = resolved.version
        elif word == LATEST:
            version = load_latest(self._engine, model)
        else:
            version = load_named(self._engine, model, word)
        if version is None:
            raise ModelVersionNotFound(
                model, word, [f"those with a number or a name, {PRODUCTION} and {LATEST} where there is one"]
            )
        return version

    def _publish(self) -> None:
        """Make documented routes of what serves, and keep what is resolved for the next start."""
        contracts = dict(self._wanted.contracts) if self._wanted else {}
        for model in self.load_known_models():
            contract = self._pool.get_slot(model).contract
            if contract is not None:
                contracts[model] = contract
        self._documented = self._documented.replace(contracts)
        served = {model: resolved for model, resolved in self._resolved.items() if self._is_served(model, resolved)}
        if served and served != load_last_resolved(self._folder):
            store_last_resolved(self._folder, served)

    def _is_served(self, model: str, resolved: Resolved) -> bool:
        return resolved.version is not None and self._pool.get_slot(model).version == resolved.version

    def _get_target(self, model: str) -> str | None:
        return self._wanted.targets.get(model) if self._wanted else None

    # --- notifications -------------------------------------------------------------------------------------------

    # --- health --------------------------------------------------------------------------------------------------

    def _check_threads(self) -> HealthCheck:
        ended = [thread.name for thread in self._threads if not thread.is_alive()]
        if ended:
            return HealthCheck("following", "failed", f"ended: {', '.join(ended)}")
        if not self._is_settled:
            reason = self._tracking.reason or self._database.reason or "looking at the registry for the first time"
            return HealthCheck("following", "failed", f"nothing is known yet of what should serve: {reason}")
        if self._fault:
            return HealthCheck("following", "degraded", self._fault)
        return HealthCheck("following", "ok", f"looks every {self._settings.follow_interval_s:g} s")

    def _check_outages(self) -> Sequence[HealthCheck]:
        reasons = {
            "tracking": self._tracking.reason,
            "artifacts": self._artifacts.reason,
            "database": self._database.reason or self._notifications.reason,
        }
        return [
            HealthCheck(name, "degraded" if reason else "ok", reason or "no failure since it was last asked")
            for name, reason in reasons.items()
        ]

    def _check_model(self, model: str) -> HealthCheck:
        name = f"model {model}"
        version = self._pool.get_slot(model).version
        failure = self._failures.get(model)
        if failure is not None:
            stays = f"version {version} keeps serving" if version else "nothing serves it"
            return HealthCheck(name, "degraded", f"{failure.reason} ({stays})")
        if version is None:
            return HealthCheck(name, "degraded", "it has no version to serve")
        return HealthCheck(name, "ok", f"version {version} serves")
