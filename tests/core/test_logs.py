"""What processes write to standard error."""

import json
import logging
from collections.abc import Iterator

import pytest

from core.logs import configure_logs
from core.settings import load_settings


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in ("httpx", "uvicorn.access")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in quiet.items():
        logging.getLogger(name).setLevel(was)


def read_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_each_record_is_one_json_object_with_process_level_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(), "worker")

    logging.getLogger("jobs.training").warning("ended\nwith %s", "code", extra={"training": "t1", "code": 3})

    (line,) = read_lines(capsys)
    record = json.loads(line)
    assert record.pop("at")
    assert record == {
        "level": "WARNING",
        "logger": "jobs.training",
        "message": "ended\nwith code",
        "process": "worker",
        "training": "t1",
        "code": 3,
    }


def test_traceback_stays_on_the_record_s_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(), "worker")

    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logging.getLogger("jobs").exception("failed")

    (line,) = read_lines(capsys)
    assert "ZeroDivisionError" in json.loads(line)["exc_info"]


def test_text_is_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_format="text"), "up")

    logging.getLogger("core").info("started")

    (line,) = read_lines(capsys)
    assert line.endswith("up INFO core: started")


def test_level_is_the_setting_s_and_chatty_libraries_stay_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_level="INFO"), "serving")

    logging.getLogger("core").debug("hidden")
    logging.getLogger("httpx").info("hidden")
    logging.getLogger("uvicorn.access").info("hidden")
    logging.getLogger("httpx").warning("shown")

    assert [json.loads(line)["message"] for line in read_lines(capsys)] == ["shown"]


def test_configuring_again_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(), "one")
    configure_logs(load_settings(), "two")

    logging.getLogger("core").warning("once")

    assert [json.loads(line)["process"] for line in read_lines(capsys)] == ["two"]
