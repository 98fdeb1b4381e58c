"""Outcomes and realised performance at the command line."""

import json
from pathlib import Path

import numpy as np

from core.database import create_database_engine
from core.embedded_database import running_database
from core.predicted_keys import PredictedKey
from tests.cli.running import Run
from tests.outcomes.predicting import START, declare, ship
from workloads.catalogue import get_workload


def test_file_of_outcomes_shows_as_performance(run: Run, home: Path) -> None:
    assert run("status").returncode in (0, 75)
    with running_database(home) as url:
        engine = create_database_engine(url)
        declare(engine, get_workload("prices").build_contract(), "mae", lower=None, upper=None)
        ship(engine, home, "prices", np.array([[101.0]]), keys=[PredictedKey("", START)])
        engine.dispose()
    (home / "outcomes.csv").write_text(f"Date,Close\n{START:%Y-%m-%d},100\n2026-01-06,-5\n2026-01-07,90\n")
    done = run("outcomes", "prices", "outcomes.csv")
    assert done.returncode == 0, done.stderr
    assert "2 new, 0 corrected, 0 unchanged outcomes" in done.stdout
    assert "1 have their prediction, 1 wait for it" in done.stdout
    assert "1 rows were rejected, first line 3, column Close" in done.stdout
    shown = run("performance", "prices", "--by", "month", "--days", "3000").stdout
    assert "1 outcomes joined, 1 waiting, 0 corrected" in shown
    assert "version 1: mae 1 promised, USD" in shown
    document = json.loads(run("performance", "prices", "--days", "3000", "--json").stdout)
    ((period,),) = [version["periods"] for version in document["versions"]]
    assert (period["rows"], period["error"], period["baseline_error"]) == (1, 1.0, 99.0)
    refused = run("outcomes", "books", "outcomes.csv")
    assert (refused.returncode, "interactions" in refused.stderr) == (2, True)
