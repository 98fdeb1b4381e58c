"""Outcomes by the clock: they complete observations every few minutes, and versions are judged by them once a day."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from core.connections import Connections
from core.contract import Contract
from core.errors import MillraceError, Unavailable
from core.evaluations import build_evaluation, find_evaluation, store_evaluation
from core.findings import Finding
from core.model_directory import ModelDirectory
from core.performance import load_periods
from ingestion.completing import complete_observations, load_models_to_complete
from monitoring.checking import store_failure
from monitoring.performance import check_performance
from workloads.catalogue import get_workload, load_catalogue

logger = logging.getLogger(__name__)

COMPLETE_CRON = "*/5 * * * *"
PERFORMANCE_CRON = "41 0 * * *"
"""Every day, when the day before is over everywhere in UTC."""

_LOGGED_DAYS = 35
"""Outcomes that come later than this still count, and are no longer shown by the day in MLflow."""


def complete_all(connections: Connections) -> int:
    """Complete observations of every model from its outcomes; how many rows were new or changed."""
    stored = 0
    for contract in load_models_to_complete(connections.engine):
        try:
            stored += complete_observations(connections.engine, contract, _build_finder(connections, contract.model))
        except MillraceError as error:
            logger.warning("outcomes wait", extra={"model": contract.model, "reason": error.sentence})
    return stored


def check_all(connections: Connections, now: datetime | None = None) -> list[Finding]:
    """Judge the Production version of every workload by its outcomes; the findings of those that have any."""
    now = now or datetime.now(UTC)
    found = []
    production = connections.registry.load_production_versions()
    for model in load_catalogue():
        if model in production:
            try:
                finding = check_version(connections, model, now)
            except Unavailable as error:
                logger.warning("a performance check is left out", extra={"model": model, "reason": error.sentence})
            except Exception as error:
                # Whatever one model's outcomes do to its check must not keep the others from theirs.
                reason = error.sentence if isinstance(error, MillraceError) else f"{type(error).__name__}: {error}"
                logger.exception("performance check failed", extra={"model": model})
                sentence = f"The check of performance failed: {reason}"
                store_failure(connections, model, production[model], sentence, key=f"performance {now:%Y-%m-%d}")
            else:
                found += [] if finding is None else [finding]
    return found


def check_version(connections: Connections, model: str, now: datetime) -> Finding | None:
    """Judge the model's Production version, and show its daily errors as metrics of its run."""
    served = connections.registry.find_production(model)
    if served is None:
        return None
    keep_evaluation(connections, model, served.version)
    with connections.engine.begin() as connection:
        finding = check_performance(connection, model, served.version, get_workload(model).drift, now)
    if finding is None:
        return None
    with connections.engine.connect() as connection:
        evaluation = find_evaluation(connection, model, served.version)
        days = (
            []
            if evaluation is None
            else load_periods(connection, evaluation, "day", now - timedelta(days=_LOGGED_DAYS), now)
        )
    values = [(one.from_at, one.realised.error) for one in days if one.realised.error is not None]
    if evaluation is not None:
        connections.tracking.log_daily_metric(served.run_id, f"realised_{evaluation.metric}", values)
    return finding


def keep_evaluation(connections: Connections, model: str, version: int) -> None:
    """See that the version's evaluation is kept; those of versions that were trained before outcomes are not."""
    with connections.engine.connect() as connection:
        if find_evaluation(connection, model, version) is not None:
            return
    with TemporaryDirectory(prefix="millrace-evaluation-") as folder:
        connections.registry.download(model, version, Path(folder))
        directory = ModelDirectory.open(Path(folder))
        contract = Contract.model_validate(dict(directory.contract))
        evaluation = None if contract.kind == "ranking" else build_evaluation(version, directory.evaluation, contract)
    if evaluation is not None:
        with connections.engine.begin() as connection:
            store_evaluation(connection, evaluation)


def _build_finder(connections: Connections, model: str) -> Callable[[int], Contract | None]:
    known: dict[int, Contract | None] = {}

    def find_contract(version: int) -> Contract | None:
        if version not in known:
            keep_evaluation(connections, model, version)
            with connections.engine.connect() as connection:
                evaluation = find_evaluation(connection, model, version)
            known[version] = None if evaluation is None else evaluation.contract
        return known[version]

    return find_contract
