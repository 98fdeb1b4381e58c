"""Commands in the audit log, and the command that reads it."""

import csv
import getpass
import json
import platform
from pathlib import Path

import pytest

from tests.cli.running import Run

HEAD = "Date,Close,Open,High,Low,Volume\n"


def load_log(run: Run) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("audit", "--json").stdout)
    return found


def test_command_that_changes_something_is_entered_whatever_becomes_of_it(run: Run, tmp_path: Path) -> None:
    before = len(load_log(run))
    (tmp_path / "bad.csv").write_text(f"{HEAD}2026-01-01,x,1,1,1,1\n")
    refused = run("ingest", "prices", str(tmp_path / "bad.csv"))
    assert refused.returncode == 2
    assert run("watch", str(tmp_path / "empty")).returncode in (0, 2)
    assert run("status").returncode in (0, 75)
    assert run("rejected", "prices").returncode == 0
    assert run("history", "prices").returncode == 0
    second, first, *_ = found = load_log(run)
    assert len(found) == before + 2
    assert (first["action"], first["model"], first["outcome"]) == ("millrace ingest", "prices", "failed")
    assert (first["process"], first["actor"], first["client"]) == ("cli", getpass.getuser(), platform.node())
    assert first["reason"] == "RowsRejected"
    assert second["action"] == "millrace watch"


def test_replay_is_a_change_and_a_list_is_none(run: Run) -> None:
    before = len(load_log(run))
    run("rejected", "failures", "--replay")
    (entry, *_) = found = load_log(run)
    assert len(found) == before + 1
    assert (entry["action"], entry["model"], entry["outcome"]) == ("millrace rejected", "failures", "done")


@pytest.mark.parametrize("name", ["audit.csv", "audit.ndjson"])
def test_log_is_exported_to_a_file(run: Run, tmp_path: Path, name: str) -> None:
    run("rejected", "failures", "--replay")
    target = tmp_path / name
    assert run("audit", "--action", "REJECTED", "--export", str(target)).returncode == 0
    if name.endswith(".csv"):
        with target.open(newline="") as file:
            actions = [row["action"] for row in csv.DictReader(file)]
    else:
        actions = [json.loads(line)["action"] for line in target.read_text().splitlines()]
    assert actions
    assert set(actions) == {"millrace rejected"}


def test_log_is_shown_as_a_table(run: Run) -> None:
    run("rejected", "failures", "--replay")
    shown = run("audit", "--model", "failures", "--limit", "1").stdout
    assert "Audit log" in shown
    assert getpass.getuser() in shown
    assert run("audit", "--actor", "nobody", "--json").stdout.strip() == "[]"


def test_commands_of_a_group_are_entered_by_their_whole_name(run: Run) -> None:
    before = len(load_log(run))
    token = run("tokens", "create", "sensor").stdout.strip()
    run("tokens", "list")
    run("tokens", "revoke", "sensor")
    revoked, created, *_ = found = load_log(run)
    assert len(found) == before + 2
    assert (created["action"], created["target"], created["outcome"]) == ("millrace tokens create", "sensor", "done")
    assert (revoked["action"], revoked["target"], revoked["outcome"]) == ("millrace tokens revoke", "sensor", "done")
    assert token not in json.dumps(found)
