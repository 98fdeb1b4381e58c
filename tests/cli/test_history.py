"""History, what served at a time, and what waits for an approval, at the command line."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from core.database import create_database_engine, migrate_database
from core.embedded_database import running_database
from core.targets import set_target
from core.transitions import store_transition
from core.verdicts import Check, Verdict, store_verdict
from tests.cli.running import Run


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[Engine]:
    """The home's database with a history of `prices`: a version that took Production, and one that waits."""
    with running_database(home) as url:
        migrate_database(url)
        engine = create_database_engine(url)
        with engine.begin() as connection:
            check = Check("baseline", True, 0.9, 1.0, "smaller than persistence")
            first = Verdict("prices", 1, None, "promote", "passed", (check,))
            _store(connection, first, "Production", "[red]smaller error")
            waiting = Verdict("prices", 2, 1, "promote", "smaller error", (check,), "administrator")
            _store(connection, waiting, "Staging", "smaller error")
            set_target(connection, "prices", "latest", "ann")
        yield engine
        engine.dispose()


def _store(connection: Connection, verdict: Verdict, stage: str, reason: str) -> None:
    store_transition(
        connection,
        model=verdict.model,
        version=verdict.version,
        from_stage="None",
        to_stage=stage,
        previous_version=verdict.champion_version,
        state="finished",
        origin="platform",
        actor="trainer",
        cause="gate",
        reason=reason,
        verdict_id=store_verdict(connection, verdict, None),
    )


def test_history_shows_moves_evidence_checks_and_targets_as_they_stand(engine: Engine, run: Run) -> None:
    done = run("history", "prices", "--checks")
    assert done.returncode == 0, done.stderr
    # What others stored is no markup of ours.
    assert "[red]smaller error" in done.stdout
    assert "None -> Staging, Production was 1" in done.stdout
    assert "promote against 1, 1 of 1 checks" in done.stdout
    assert "smaller than persistence" in done.stdout
    assert "latest" in done.stdout and "ann" in done.stdout

    newest, first = json.loads(run("history", "prices", "--json").stdout)
    assert (newest["version"], first["version"]) == (2, 1)
    assert first["evidence"]["verdict"]["verdict"]["checks"][0]["name"] == "baseline"


def test_history_tells_what_served_at_a_time(engine: Engine, run: Run) -> None:
    served = json.loads(run("history", "prices", "--at", datetime.now(UTC).isoformat(), "--json").stdout)
    # Version 2 passed the gate too, but waits.
    assert (served["version"], served["target"], served["production"]) == (1, "latest", 1)
    told = run("history", "prices", "--at", datetime.now(UTC).isoformat()).stdout
    assert "version 1; target latest, set by ann" in told
    assert "[red]smaller error" in told
    assert "nothing; target Production" in run("history", "prices", "--at", "2020-01-01").stdout
    refused = run("history", "prices", "--at", "yesterday")
    assert (refused.returncode, "a time as in" in refused.stderr) == (2, True)


def test_waiting_version_is_listed_with_the_role_that_it_waits_for(engine: Engine, run: Run) -> None:
    done = run("approvals")
    assert done.returncode == 0, done.stderr
    assert "administrator" in done.stdout
    [waiting] = json.loads(run("approvals", "--json").stdout)
    assert (waiting["transition"]["version"], waiting["verdict"]["approver"]) == (2, "administrator")
