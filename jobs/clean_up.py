"""Carrying a clean-up's plan out: each removal by itself, recorded, and looked at once more before it happens."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from core.connections import Connections
from core.database import lock_model
from core.errors import ModelVersionNotFound
from core.keeping_lock import hold_keeping_lock
from core.stored_runs import StoredRun, StoredRuns
from core.tables.audit import removals
from core.tables.data import snapshots, source_pieces
from core.tables.monitoring import findings
from core.tables.trainings import trainings
from core.trainings import OPEN_STATES
from jobs.retention import Decision, Facts, RetentionPolicy, judge_versions, plan_clean_up
from jobs.retention_facts import build_policy, load_facts, load_open_trainings, load_versions

logger = logging.getLogger(__name__)

CLEAN_UP_CRON = "41 3 * * *"
"""Every night."""

# Who waits for a lock makes everyone else wait behind it.
_LOCK_TIMEOUT = "10s"


def plan(connections: Connections, now: datetime | None = None) -> list[Decision]:
    """What a clean-up would do now, with the sizes of what goes; nothing is changed."""
    facts, runs = load_facts(connections)
    decisions = plan_clean_up(facts, build_policy(connections.settings), now or datetime.now(UTC))
    return _measure(connections, decisions, runs)


def clean_up(connections: Connections, actor: str, now: datetime | None = None) -> list[Decision]:
    """Remove what the settings no longer keep; returns what went. Raises KeepingUnderWay while a backup is made.

    Interrupted anywhere, the next one goes on. What became needed since the plan was made is left.
    """
    with hold_keeping_lock(connections.database_url):
        facts, runs = load_facts(connections)
        policy = build_policy(connections.settings)
        decisions = plan_clean_up(facts, policy, now or datetime.now(UTC))
        remover = _Remover(connections, facts, policy, runs, actor)
        return [
            decision
            for decision in _measure(connections, decisions, runs)
            if decision.is_removed and remover.remove(decision)
        ]


def _measure(connections: Connections, decisions: list[Decision], runs: Mapping[str, StoredRun]) -> list[Decision]:
    stored = StoredRuns(connections.settings.tracking_address)
    return [
        replace(decision, bytes=stored.measure(runs[decision.name]))
        if decision.kind == "run" and decision.is_removed
        else decision
        for decision in decisions
    ]


class _Remover:
    """Removes one thing after the other; whether each went."""

    def __init__(
        self,
        connections: Connections,
        facts: Facts,
        policy: RetentionPolicy,
        runs: Mapping[str, StoredRun],
        actor: str,
    ) -> None:
        self._connections = connections
        self._policy = policy
        self._runs = runs
        self._actor = actor
        self._stored = StoredRuns(connections.settings.tracking_address)
        self._snapshots = {one.digest: one for one in facts.snapshots}
        self._reports = {one.finding_id: one for one in facts.reports}

    def remove(self, decision: Decision) -> bool:
        acts: dict[str, Callable[[Connection, Decision], bool]] = {
            "version": self._remove_version,
            "run": self._remove_run,
            "snapshot": self._remove_snapshot,
            "report": self._remove_report,
            "source": self._remove_source,
            "log": self._remove_file,
            "journal": self._remove_file,
        }
        named = {"kind": decision.kind, "model": decision.model, "name": decision.name}
        try:
            is_gone = self._act(acts[decision.kind], decision, named)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            is_gone = False
        logger.info("removed" if is_gone else "left for the next time", extra={**named, "reason": decision.reason})
        return is_gone

    def _act(
        self, act: Callable[[Connection, Decision], bool], decision: Decision, named: Mapping[str, object]
    ) -> bool:
        with self._connections.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout TO '{_LOCK_TIMEOUT}'"))
            if not act(connection, decision):
                return False
            record = {**named, "bytes": decision.bytes, "reason": decision.reason, "actor": self._actor}
            connection.execute(insert(removals).values(record))
            return True

    def _remove_version(self, connection: Connection, decision: Decision) -> bool:
        # Nobody promotes, rolls back or registers meanwhile.
        lock_model(connection, decision.model)
        present = Facts(
            versions=load_versions(self._connections, [decision.model]), trainings=load_open_trainings(connection)
        )
        again = judge_versions(present, self._policy)
        if not any((one.model, one.name, one.is_removed) == (decision.model, decision.name, True) for one in again):
            return False
        with suppress(ModelVersionNotFound):
            self._connections.registry.delete_version(decision.model, int(decision.name))
        return True

    def _remove_run(self, _connection: Connection, decision: Decision) -> bool:
        run = self._runs[decision.name]
        versions = self._connections.registry.load_all_versions()
        names = (run.run_id, *run.logged_models)
        if any(one.run_id == run.run_id or any(name in one.source for name in names) for one in versions):
            return False
        self._stored.remove(run)
        return True

    def _remove_snapshot(self, connection: Connection, decision: Decision) -> bool:
        # A training that is asked for now waits, and then finds that the snapshot is to be cut again.
        connection.execute(text("LOCK TABLE trainings IN SHARE ROW EXCLUSIVE MODE"))
        is_open = (trainings.c.model == decision.model) & trainings.c.state.in_(OPEN_STATES)
        if connection.scalar(select(func.count()).where(is_open)):
            return False
        snapshot = self._snapshots[decision.name]
        self._stored.remove_file(snapshot.uri)
        connection.execute(update(snapshots).where(snapshots.c.digest == snapshot.digest).values(removed_at=func.now()))
        return True

    def _remove_report(self, connection: Connection, decision: Decision) -> bool:
        report = self._reports[decision.name]
        self._stored.remove_artifact(report.run_id, f"reports/{report.finding_id}")
        is_it = findings.c.id == UUID(report.finding_id)
        connection.execute(update(findings).where(is_it).values(report_uri=None, report=None))
        return True

    def _remove_source(self, connection: Connection, decision: Decision) -> bool:
        connection.execute(delete(source_pieces).where(source_pieces.c.source_id == UUID(decision.name)))
        return True

    def _remove_file(self, _connection: Connection, decision: Decision) -> bool:
        (self._connections.settings.home / decision.name).unlink(missing_ok=True)
        return True
