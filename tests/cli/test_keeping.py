"""Backup, restore, upgrade and clean-up as a person runs them."""

import json
import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from core.database import build_libpq_url
from core.embedded_database import EmbeddedDatabase
from tests.cli.running import Run
from tests.core.backups import EARLIER_REVISION, Place, digest_tables, make_earlier_platform, making_place


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Place]:
    with making_place(EmbeddedDatabase(home).url, tmp_path / "place") as made:
        yield made


def name_place(place: Place) -> dict[str, str]:
    """The settings by which commands find the place."""
    return {
        "DATABASE_URL": build_libpq_url(place.url),
        "MLFLOW_DATABASE_URL": build_libpq_url(place.tracking_url),
        "MILLRACE_HOME": str(place.folder / "home"),
        "MILLRACE_ARTIFACTS": str(place.artifacts_folder),
    }


def test_backup_of_nothing_is_refused_and_makes_nothing(run: Run, tmp_path: Path) -> None:
    done = run("backup", str(tmp_path), MILLRACE_HOME=str(tmp_path / "home"))
    assert (done.returncode, list(tmp_path.iterdir())) == (3, [])
    assert "There is nothing to back up" in done.stderr
    assert run("backup", str(tmp_path / "none.zip"), "--verify").returncode == 3
    assert run("restore", str(tmp_path / "none.zip"), MILLRACE_HOME=str(tmp_path / "home")).returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_old_schema_is_upgraded_after_a_backup_alone(run: Run, place: Place, tmp_path: Path) -> None:
    make_earlier_platform(place.url)
    settings = name_place(place)
    before = digest_tables(place.url)

    refused = run("status", **settings)
    assert (refused.returncode, "run `millrace upgrade --backup FOLDER`" in refused.stderr) == (4, True)
    refused = run("upgrade", **settings)
    assert (refused.returncode, f"the platform's database, {EARLIER_REVISION} ->" in refused.stderr) == (4, True)
    both = run("upgrade", "--backup", str(tmp_path), "--without-backup", **settings)
    assert (both.returncode, digest_tables(place.url)) == (2, before)

    folder = tmp_path / "backups"
    folder.mkdir()
    done = run("upgrade", "--backup", str(folder), **settings)
    assert done.returncode == 0, done.stderr
    (backup,) = folder.iterdir()
    assert f"{backup} is written" in done.stdout
    assert f"the platform's database: {EARLIER_REVISION} ->" in done.stdout
    assert run("upgrade", **settings).stdout == "Both databases are what this version needs.\n"
    assert run("status", **settings).returncode == 0
    verified = json.loads(run("backup", str(backup), "--verify", "--json").stdout)
    assert verified["revisions"]["platform"] == EARLIER_REVISION


def test_backup_goes_to_another_machine(run: Run, place: Place, home: Path, tmp_path: Path) -> None:
    days = [date(2024, 1, 1) + timedelta(days=day) for day in range(40)]
    (home / "rows.csv").write_text("Date,Close\n" + "".join(f"{day},1.5\n" for day in days))
    assert run("ingest", "prices", "rows.csv").returncode == 0
    own = {"MILLRACE_ARTIFACTS": str(tmp_path / "mlruns")}
    written = json.loads(run("backup", str(tmp_path / "b.zip"), "--json", **own).stdout)
    again = run("backup", str(tmp_path / "b.zip"), **own)
    assert (again.returncode, "a backup replaces nothing" in again.stderr) == (4, True)

    done = run("restore", str(tmp_path / "b.zip"), "--json", **name_place(place))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {**written, "path": str(tmp_path / "b.zip")}
    assert digest_tables(place.url) == digest_tables(EmbeddedDatabase(home).url)
    # It holds exactly this, so there is nothing to do.
    assert run("restore", str(tmp_path / "b.zip"), **name_place(place)).returncode == 0
    (home / "more.csv").write_text("Date,Close\n2024-02-10,1.5\n")
    assert run("ingest", "prices", "more.csv", **name_place(place)).returncode == 0
    refused = run("restore", str(tmp_path / "b.zip"), **name_place(place))
    assert (refused.returncode, "the platform's database is not empty" in refused.stderr) == (4, True)


def test_clean_up_is_shown_before_it_is_made(run: Run, place: Place, tracking_server: str) -> None:
    settings = {**name_place(place), "MLFLOW_TRACKING_URI": tracking_server}
    log = place.folder / "home" / "logs" / "trainings" / "old.1.log"
    log.parent.mkdir(parents=True)
    log.write_text("fitted")
    os.utime(log, (0, 0))

    shown = run("gc", "--dry-run", **settings)
    assert (shown.returncode, log.exists()) == (0, True), shown.stderr
    assert "logs/trainings/old.1.log" in shown.stdout
    assert "last written more than 90 days ago" in shown.stdout
    assert "1 would go" in shown.stdout
    (removed,) = json.loads(run("gc", "--json", **settings).stdout)
    assert (removed["kind"], removed["bytes"], log.exists()) == ("log", 6, False)
    assert run("gc", **settings).stdout == "0 removed, 0.00 MB\n"
