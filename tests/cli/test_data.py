"""Commands that bring rows in: forms of files, the watched folder, pulls by hand."""

import functools
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest

from tests.cli.running import Run
from workloads.prices.sample import write_sample


@pytest.fixture(autouse=True)
def _rows(home: Path) -> None:
    """Rows of prices as `rows.csv`, and what a test before left there is gone."""
    shutil.rmtree(home / "inbox", ignore_errors=True)
    write_sample(home / "rows.csv", rows=60)


@pytest.fixture
def address(home: Path) -> Iterator[str]:
    """A server of the home's files."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(home))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_workbook_is_ingested_from_the_named_sheet(home: Path, run: Run) -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.create_sheet("data")
    for line in (home / "rows.csv").read_text().splitlines():
        cells = line.split(",")
        sheet.append([cells[0], *(float(cell) if cell[:1].isdigit() else cell for cell in cells[1:])])
    workbook.save(home / "rows.xlsx")

    refused = run("ingest", "prices", "rows.xlsx")
    done = run("ingest", "prices", "rows.xlsx", "--sheet", "data", "--json")

    assert refused.returncode == 2
    assert "an empty sheet" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_new"] + json.loads(done.stdout)["rows_unchanged"] == 60


def test_encoding_is_said_and_checked(home: Path, run: Run) -> None:
    lines = (home / "rows.csv").read_text().splitlines()
    text = "\n".join([f"{lines[0]},Börse", *(f"{line},Köln" for line in lines[1:])])
    (home / "latin.csv").write_bytes(text.encode("latin-1"))

    unsaid = run("ingest", "prices", "latin.csv")
    said = run("ingest", "prices", "latin.csv", "--encoding", "Latin-1")
    unknown = run("ingest", "prices", "latin.csv", "--encoding", "ebcdic")

    assert (unsaid.returncode, said.returncode, unknown.returncode) == (2, 0, 2)
    assert "say encoding latin-1 or windows-1252" in unsaid.stderr
    assert "left out: Börse" in said.stdout
    assert "encoding='ebcdic' is not allowed: utf-8, latin-1, windows-1252" in unknown.stderr


def test_watched_folder_is_taken_by_hand(home: Path, run: Run) -> None:
    inbox = home / "inbox" / "prices"
    inbox.mkdir(parents=True)
    (inbox / "rows.csv").write_bytes((home / "rows.csv").read_bytes())
    (inbox / "bad.csv").write_bytes(b"nothing\n1\n")

    done = run("watch", "inbox", "--steady", "0")
    nowhere = run("watch")
    again = run("watch", MILLRACE_WATCH_FOLDER=str(home / "inbox"))

    assert done.returncode == 2
    assert "prices: rows.csv -> done/" in done.stdout and "prices: bad.csv -> rejected/" in done.stdout
    assert again.returncode == 0 and "No complete file is waiting" in again.stdout
    assert nowhere.returncode == 2 and "MILLRACE_WATCH_FOLDER" in nowhere.stderr


def test_address_is_pulled_by_hand(run: Run, address: str) -> None:
    arguments = ("pull", "prices", "--address", f"{address}/rows.csv")

    refused = run(*arguments)
    done = run(*arguments, MILLRACE_PULL_PRIVATE="true")
    again = run(*arguments, MILLRACE_PULL_PRIVATE="true")
    missing = run("pull", "prices", "--address", f"{address}/none.csv", MILLRACE_PULL_PRIVATE="true")

    assert refused.returncode == 2 and "leads into a private network" in refused.stderr
    assert done.returncode == 0 and f"{address}/rows.csv -> prices: " in done.stdout
    assert again.returncode == 0 and "nothing new" in again.stdout
    assert missing.returncode == 75 and "answered 404" in missing.stderr


def test_declared_source_says_what_it_lacks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yfinance", None)

    done = run("pull", "prices")
    unknown = run("pull", "prices", "other")

    assert done.returncode == 1 and "pip install 'millrace[yahoo]'" in done.stderr
    assert unknown.returncode == 3 and "declared are yahoo" in unknown.stderr
