"""Lines out of a growing log."""

from pathlib import Path

import pytest

from core.job_lines import KEPT_LINES, MAX_LINE_CHARS
from core.masking import Masker
from jobs.log_reading import LogReader

SECRET = "s3cret-value"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_bytes(b"of an earlier attempt\n")
    return path


def build(log: Path) -> LogReader:
    return LogReader(log, Masker([SECRET]))


def append(log: Path, content: bytes) -> None:
    with log.open("ab") as file:
        file.write(content)


def test_lines_are_given_when_they_are_complete_and_once_they_are_accepted_no_more(log: Path) -> None:
    reader = build(log)
    assert reader.read() == []
    append(log, b"one\ntw")
    assert reader.read() == ["one"]
    # They could not be kept.
    assert reader.read() == ["one"]
    reader.accept()
    append(log, b"o\nthree")
    assert reader.read() == ["two"]
    reader.accept()
    assert reader.read(is_ended=True) == ["three"]
    reader.accept()
    assert reader.read(is_ended=True) == []
    append(log, b"\nfour\n\nfive\n")
    assert reader.read(is_ended=True) == ["", "four", "", "five"]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"the word is s3cret-value.\n", "the word is ***."),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07text\n", "red text"),
        (b"10%\r50%\r100%\r\n", "100%"),
        (b"nul \x00 bell \x07 tab\tend\n", "nul   bell   tab\tend"),
        (b"half \xc3 letter\n", "half � letter"),
    ],
)
def test_secrets_and_what_a_terminal_would_obey_are_taken_out(log: Path, written: bytes, kept: str) -> None:
    reader = build(log)
    append(log, written)
    assert reader.read() == [kept]


def test_secret_that_is_written_in_two_pieces_is_masked(log: Path) -> None:
    reader = build(log)
    append(log, b"now s3cret")
    assert reader.read() == []
    append(log, b"-value\n")
    assert reader.read() == ["now ***"]


def test_line_without_an_end_is_cut(log: Path) -> None:
    reader = build(log)
    append(log, b"x" * 100_000)
    assert reader.read() == ["x" * MAX_LINE_CHARS]


def test_of_a_flood_the_last_lines_are_given_and_what_is_left_out_is_said(log: Path) -> None:
    reader = build(log)
    append(log, b"".join(b"%0100d\n" % number for number in range(30_000)))
    lines = reader.read()
    assert len(lines) == KEPT_LINES
    assert int(lines[-1]) == 29_999
    reader.accept()
    assert reader.read() == []
    append(log, b"y" * 999 + b"\n" + b"z" * 2**20 + b"\nlast\n")
    assert reader.read() == ["(1049577 bytes of log are left out here)", "last"]


def test_log_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    reader = build(tmp_path / "log")
    assert reader.read(is_ended=True) == []
    append(tmp_path / "log", b"one\n")
    assert reader.read() == ["one"]
