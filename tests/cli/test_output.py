"""What commands print."""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from types import MappingProxyType

import pytest
from rich.console import Console

from cli.output import print_json, print_table, show

AT = datetime(2026, 3, 1, 12, 30, 15, 987654, tzinfo=UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@dataclass(frozen=True)
class Thing:
    name: str
    at: datetime
    id: uuid.UUID
    parts: tuple[int, ...]
    facts: MappingProxyType[str, int]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What the console writes, on lines of a hundred characters."""
    console = Console(file=StringIO(), width=100, highlight=False)
    monkeypatch.setattr("cli.output.console", console)
    assert isinstance(console.file, StringIO)
    return console.file


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        (AT, "2026-03-01 12:30:15"),
        (0.123456789, "0.123457"),
        (12.0, "12"),
        (7, "7"),
        (True, "True"),
        ("", ""),
    ],
)
def test_cell_is_shown_for_a_person(cell: object, text: str) -> None:
    assert show(cell) == text


def test_table_shows_title_columns_and_rows(written: StringIO) -> None:
    print_table("Versions", ["version", "at"], [(3, AT), (2, None)])

    lines = written.getvalue().splitlines()
    assert lines[0].strip() == "Versions"
    assert any("version" in line and "at" in line for line in lines)
    assert any("3" in line and "2026-03-01 12:30:15" in line for line in lines)


@pytest.mark.parametrize("cell", ["[bold]x[/bold]", "[/x]", "values[3] [red]", "[link=http://x]y[/link]", ":smile:"])
def test_stored_text_is_shown_as_it_stands(written: StringIO, cell: str) -> None:
    print_table("Rows", ["reason"], [(cell,)])

    assert cell in written.getvalue()


def test_json_has_times_ids_and_nested_things_as_json_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    thing = Thing("é", AT, ID, (1, 2), MappingProxyType({"a": 1}))

    print_json({"things": [thing], "path": Path("/tmp/x"), "none": None, "share": 0.5})  # noqa: S108  # not made

    assert json.loads(capsys.readouterr().out) == {
        "things": [
            {"name": "é", "at": "2026-03-01T12:30:15.987654+00:00", "id": str(ID), "parts": [1, 2], "facts": {"a": 1}}
        ],
        "path": "/tmp/x",  # noqa: S108  # not made
        "none": None,
        "share": 0.5,
    }


def test_number_that_json_has_not_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([float("nan"), float("inf")])

    assert json.loads(capsys.readouterr().out) == [None, None]
