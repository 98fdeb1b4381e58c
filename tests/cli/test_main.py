"""The command line without a running platform: help, exit codes and the sentences of errors."""

import json
import re
import socket
from datetime import date, timedelta
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from cli.main import EXIT_CODES, FAMILIES, build_app
from core import errors
from tests.cli.running import Run, count_rows, run_process
from tests.conftest import find_free_port

COMMANDS = [command for commands in FAMILIES.values() for command in commands]
_CSV = "Date,Close,Open,High,Low,Volume\n"


@pytest.fixture(scope="module")
def tree() -> TyperGroup:
    """All commands as the library that parses them has them."""
    group = typer.main.get_command(build_app())
    assert isinstance(group, TyperGroup)
    return group


# --- help --------------------------------------------------------------------------------------------------------


def test_every_command_is_there(tree: TyperGroup) -> None:
    assert sorted(tree.commands) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_and_each_of_its_parameters_does(tree: TyperGroup, name: str) -> None:
    command = tree.commands[name]

    assert len((command.help or "").strip()) > 20
    for parameter in command.params:
        text = getattr(parameter, "help", None)
        assert text, f"{name}: parameter {parameter.name} has no help"
        assert text.strip().endswith((".", "`.", "!")), f"{name}: {text!r} is no sentence"


def test_help_of_a_command_is_printed_without_anything_running(tmp_path: Path) -> None:
    done = run_process(tmp_path, "train", "--help")

    assert done.returncode == 0
    assert "--set" in done.stdout
    assert "as in --set learning_rate=0.001" in done.stdout.replace("`", "")
    assert list(tmp_path.iterdir()) == []


# --- exit codes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ParameterRejected("seed", -1, "at least 0"), 2),
        (errors.WorkloadNotFound("x", ["prices"]), 3),
        (errors.PlatformAlreadyRunning("/home", "7"), 4),
        (errors.TrackingUnavailable("http://127.0.0.1:5000", "refused"), 75),
        (errors.TrainingFailed("prices", "fit", "it diverged"), 1),
        (errors.SettingsRejected("Setting X is refused."), 1),
    ],
)
def test_exit_code_names_the_category_of_the_error(error: errors.MillraceError, code: int) -> None:
    assert next(number for kind, number in EXIT_CODES if isinstance(error, kind)) == code


def test_unknown_command_is_refused(run: Run) -> None:
    done = run("fly")

    assert done.returncode == 2
    assert "fly" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["train"], ["check"], ["predict", "--values", "1"], ["history"]])
def test_unknown_model_is_named_with_the_known_ones(run: Run, command: list[str]) -> None:
    done = run(command[0], "pirces", *command[1:])

    assert done.returncode == 3, done.stderr
    assert "'pirces'" in done.stderr
    assert re.search("known are .*prices", done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_parameter_that_is_not_allowed_is_refused_before_anything_starts(run: Run) -> None:
    done = run("train", "prices", "--set", "hidden_size=2")

    assert done.returncode == 2
    assert "hidden_size" in done.stderr
    assert "2" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameter_without_a_value_says_how_it_is_written(run: Run) -> None:
    done = run("train", "prices", "--set", "seed")

    assert done.returncode == 2
    assert "--set name=value" in done.stderr


def test_values_that_are_no_numbers_are_named(run: Run) -> None:
    done = run("predict", "prices", "--values", "1.5,two,3")

    assert done.returncode == 2, done.stderr
    assert "values[1]='two'" in done.stderr
    assert "Traceback" not in done.stderr


def test_ranking_is_not_predicted_from_numbers(run: Run) -> None:
    answer = run("predict", "books", "--values", "1,2")

    assert answer.returncode == 2
    assert "by user" in answer.stderr


def test_unsafe_setting_is_refused(run: Run) -> None:
    done = run("status", MILLRACE_HOST="0.0.0.0")  # noqa: S104  # refused, not bound

    assert done.returncode == 1
    assert "MILLRACE_PRIVATE_NETWORK" in done.stderr
    assert "Traceback" not in done.stderr


def test_database_that_is_away_is_named_without_its_password(run: Run) -> None:
    address = f"postgresql://user:a-long-password@127.0.0.1:{find_free_port()}/millrace"
    done = run("status", DATABASE_URL=address)

    assert done.returncode == 75, done.stderr
    assert "does not answer" in done.stderr
    assert "a-long-password" not in done.stderr
    assert "Traceback" not in done.stderr


def test_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_process(tmp_path, "up", MILLRACE_CONTROL_PORT=str(port), MILLRACE_SERVING_PORT=str(find_free_port()))

    assert done.returncode == 4
    assert f"Port {port} is in use" in done.stderr
    assert "MILLRACE_CONTROL_PORT" in done.stderr
    assert not (tmp_path / "postgres").exists()


def test_up_does_not_start_on_schedules_that_are_none(tmp_path: Path) -> None:
    done = run_process(tmp_path, "up", MILLRACE_SCHEDULES="nothing=off")
    assert done.returncode != 0
    assert "there is no workload 'nothing'" in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "line", "column"),
    [
        ("2024-01-01,100,,,,\n2024-01-02,dear,,,,\n", "line 3", "Close"),
        ("2024-01-01,100,,,,\n2024-01-02,101,,,,\n2024-01-02,102,,,,\n", "line 4", "Date"),
        ("2024-01-01,inf,,,,\n", "line 2", "Close"),
        ("2024-01-01,-5,,,,\n", "line 2", "Close"),
    ],
    ids=["text", "twice", "infinite", "negative"],
)
def test_bad_file_is_refused_with_line_and_column_and_nothing_is_stored(
    run: Run, home: Path, rows: str, line: str, column: str
) -> None:
    path = home / "bad.csv"
    path.write_text(_CSV + rows, encoding="utf-8")

    done = run("ingest", "prices", str(path))

    assert done.returncode == 2, done.stderr
    for part in ("bad.csv", line, column, "not allowed", "Nothing was stored"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert count_rows(home) == 0


def test_file_that_is_not_there_is_refused(run: Run) -> None:
    done = run("ingest", "prices", "nowhere.csv")

    assert done.returncode == 2
    assert "nowhere.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_good_file_is_stored_once(run: Run, home: Path) -> None:
    path = home / "good.csv"
    path.write_text(
        _CSV + "".join(f"{date(2024, 1, 1) + timedelta(day)},{100 + day},,,,\n" for day in range(40)), encoding="utf-8"
    )

    first = json.loads(run("ingest", "prices", str(path), "--json").stdout)
    again = run("ingest", "prices", str(path))

    assert (first["rows_new"], first["rows_unchanged"]) == (40, 0)
    assert "0 new, 0 changed, 40 unchanged rows" in again.stdout
    assert count_rows(home) == 40


# --- MLflow's store ----------------------------------------------------------------------------------------------


def test_store_address_is_printed_alone(run: Run) -> None:
    done = run("ui", "--store")

    assert done.returncode == 0
    assert re.fullmatch(r"postgresql\+psycopg2://millrace:[\w-]{20,}@/mlflow\?host=\S+\n", done.stdout)
