"""Optuna's studies in the platform's PostgreSQL: opened, counted, and taken up again after a death."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url, text
from sqlalchemy.schema import CreateSchema

from core.connections import Connections
from core.database import normalise_url
from core.errors import ParameterRejected

logger = logging.getLogger(__name__)

SCHEMA = "tuning"
"""Optuna and the platform both keep a table `alembic_version`; each has its own schema of the database."""
HEARTBEAT_S = 5
GRACE_S = 40
"""A trial without a heartbeat for this long has lost its process: it is failed and its point tried again."""
MOST_RETRIES = 2
STARTUP_TRIALS = 5

RUN_ATTRIBUTE = "run_id"
FAILURE_ATTRIBUTE = "failure"
FOLDS_ATTRIBUTE = "fold_errors"
_OBJECTIVES_ATTRIBUTE = "objectives"
_SNAPSHOT_ATTRIBUTE = "snapshot"


@contextmanager
def open_study(
    connections: Connections, name: str, objectives: Sequence[str], snapshot: str, seed: int = 0
) -> Iterator[optuna.Study]:
    """The study of that name, made where it is not there; its connections are closed at the end.

    Every objective is minimised. Raises ParameterRejected where it was begun with other objectives or on another
    snapshot: its trials could not be compared.
    """
    with _open_storage(connections) as storage:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=["minimize"] * len(objectives),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=2),
            load_if_exists=True,
        )
        # A study that goes on must not draw the points of its beginning again.
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
        for attribute, wanted in ((_OBJECTIVES_ATTRIBUTE, list(objectives)), (_SNAPSHOT_ATTRIBUTE, snapshot)):
            begun = study.user_attrs.get(attribute)
            if begun is None:
                study.set_user_attr(attribute, wanted)
            elif begun != wanted:
                raise ParameterRejected(attribute, wanted, f"study {name!r} was begun with {begun}; name another study")
        yield study


def find_study_snapshot(connections: Connections, name: str) -> str | None:
    """The digest of the snapshot that the study was begun on; None if there is no such study."""
    with _open_storage(connections) as storage:
        if name not in optuna.get_all_study_names(storage):
            return None
        found = optuna.load_study(study_name=name, storage=storage).user_attrs.get(_SNAPSHOT_ATTRIBUTE)
        return None if found is None else str(found)


@contextmanager
def _open_storage(connections: Connections) -> Iterator[optuna.storages.RDBStorage]:
    def retry(study: optuna.Study, trial: FrozenTrial) -> None:
        run_id = trial.user_attrs.get(RUN_ATTRIBUTE)
        if run_id is not None:
            connections.tracking.finish_run(run_id, "KILLED")
        logger.warning("a trial lost its process; its point is tried again", extra={"trial": trial.number})
        optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES)(study, trial)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = make_url(normalise_url(connections.database_url))
    url = url.update_query_dict({"options": f"-csearch_path={SCHEMA}"})
    with warnings.catch_warnings():
        # Optuna calls its heartbeats experimental; they are tested here.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Neither PostgreSQL's IF NOT EXISTS nor Optuna's tables bear two processes that make them at once.
        turn = Turn(connections, "")
        try:
            with connections.engine.begin() as connection:
                connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
            storage = optuna.storages.RDBStorage(
                url.render_as_string(hide_password=False),
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=retry,
            )
        finally:
            turn.release()
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def count_trials(study: optuna.Study) -> tuple[int, int]:
    """How many trials count towards the study's total, and how many are running.

    A trial counts that came to its own end: complete, pruned, or failed by itself. One that lost its process does not.
    """
    ended = running = 0
    for trial in study.get_trials(deepcopy=False):
        is_own_failure = trial.state == TrialState.FAIL and FAILURE_ATTRIBUTE in trial.user_attrs
        ended += trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or is_own_failure
        running += trial.state == TrialState.RUNNING
    return ended, running


class Turn:
    """The right to begin a trial of a study, which one process at a time has; so a study's total is exact.

    That of the study without a name is the right to make the storage.
    """

    def __init__(self, connections: Connections, study: str) -> None:
        self._connection = connections.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._name = {"name": f"study:{study}"}
        self._connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), self._name)

    def release(self) -> None:
        """Let others begin; does nothing the second time."""
        if not self._connection.closed:
            self._connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), self._name)
            self._connection.close()
