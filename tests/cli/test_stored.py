"""Commands for what is stored, as a person runs them on a home with a database of its own."""

import csv
import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.cli.running import Run, count_rows

_DAYS = [date(2024, 1, 1) + timedelta(days=day) for day in range(40)]
_GOOD = "Date,Close\n" + "".join(f"{day},{100 + at}.5\n" for at, day in enumerate(_DAYS))
_BAD = "Date,Close\n2024-02-10,=1+1\n2024-02-11,-3.5\n"


@pytest.fixture
def filled(run: Run, home: Path) -> Run:
    """The same commands, after a good and a bad file were brought in."""
    for name, content, code in (("good.csv", _GOOD, 0), ("bad.csv", _BAD, 2)):
        (home / name).write_text(content)
        assert run("ingest", "prices", name).returncode == code
    return run


def test_origin_shows_the_raw_line_of_a_stored_row(filled: Run) -> None:
    done = filled("origin", "prices", "2024-01-03")
    missing = filled("origin", "prices", "2023-01-03")

    assert done.stdout.splitlines()[0].startswith("good.csv (file, csv), line 4, from ")
    assert done.stdout.splitlines()[1] == "2024-01-03,102.5"
    assert missing.returncode == 3
    assert "no observation '2023-01-03'; its key is Date" in missing.stderr


def test_rejected_rows_are_listed_exported_and_replayed(filled: Run, home: Path) -> None:
    table = filled("rejected", "prices").stdout
    listed = json.loads(filled("rejected", "prices", "--json", "--limit", "1").stdout)
    exported = filled("rejected", "prices", "--export", "rejected.csv")
    source_id = listed[0]["source_id"]
    replayed = filled("rejected", "prices", "--source", source_id)

    assert "=1+1" in table
    assert "at least 1e-06 USD is allowed" in table
    assert [(row["source"], row["line"], row["value"]) for row in listed] == [("bad.csv", 3, "-3.5")]
    assert "rejected -> rejected.csv" in exported.stdout
    with (home / "rejected.csv").open(newline="") as file:
        assert [row["value"] for row in csv.DictReader(file)][-2:] == ["'=1+1", "-3.5"]
    assert filled("rejected", "prices", "--export", "-").stdout.startswith("id,rejected_at,source,")
    # The contract is still the same.
    assert replayed.returncode == 2
    assert "bad.csv was not imported into 'prices', 2 fault(s)" in replayed.stderr
    assert count_rows(home) == 40
    again = json.loads(filled("rejected", "prices", "--json").stdout)
    assert [row["value"] for row in again[:2]] == ["-3.5", "=1+1"]
    assert source_id not in {row["source_id"] for row in again}
