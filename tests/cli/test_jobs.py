"""Commands for jobs, as a person and a script run them; no worker runs."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, update

from core.embedded_database import running_database
from core.job_lines import append_lines
from core.tables.trainings import trainings
from core.trainings import fail_training, finish_training, request_training, start_attempt
from tests.cli.running import Run


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    """The home's database, for what a worker would do."""
    with running_database(home) as url:
        engine = create_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def job_id(run: Run, engine: Engine) -> uuid.UUID:
    """A training that was asked for and that nobody carries out."""
    assert run("jobs", "list", "--json").returncode == 0
    with engine.begin() as connection:
        connection.execute(update(trainings).values(state="failed"))
        return request_training(connection, "prices", cause="hand", actor="ann")[0].id


def work(engine: Engine, job_id: uuid.UUID, *, fails: bool) -> None:
    """What a worker does, with a pause in the middle."""
    with engine.begin() as connection:
        start_attempt(connection, job_id)
        append_lines(connection, job_id, 1, ["first line"])
    time.sleep(1.0)
    with engine.begin() as connection:
        append_lines(connection, job_id, 1, ["[bold]last[/bold] line"])
        if fails:
            fail_training(connection, job_id, 1, "too few rows")
        else:
            finish_training(connection, job_id, 1)


def test_job_is_listed_shown_cancelled_and_repeated(run: Run, engine: Engine, job_id: uuid.UUID) -> None:
    assert str(job_id) in run("jobs", "list", "--kind", "training", "--model", "prices").stdout
    assert json.loads(run("jobs", "list", "--state", "running", "--json").stdout) == []
    assert "training" in run("jobs", "show", str(job_id)).stdout
    cancelled = json.loads(run("jobs", "cancel", str(job_id), "--json").stdout)
    assert cancelled["state"] == "cancelled" and cancelled["error"].startswith("cancelled by ")
    again = json.loads(run("jobs", "retry", str(job_id), "--json").stdout)
    assert (again["state"], again["repeats_id"]) == ("queued", str(job_id))
    twice = run("jobs", "retry", str(job_id), "--json")
    assert json.loads(twice.stdout) == again and "repeated already" in twice.stderr


@pytest.mark.parametrize("fails", [False, True])
def test_job_is_followed_to_its_end_in_a_pipe(run: Run, engine: Engine, job_id: uuid.UUID, fails: bool) -> None:
    worker = threading.Thread(target=work, args=(engine, job_id), kwargs={"fails": fails})
    worker.start()
    done = run("jobs", "follow", str(job_id))
    worker.join()
    lines = done.stdout.splitlines()
    state = "failed" if fails else "finished"
    assert lines[:3] == ["first line", "[bold]last[/bold] line", f"training {job_id} of prices: {state}"]
    assert done.returncode == int(fails)
    events = [json.loads(line) for line in run("jobs", "follow", str(job_id), "--json").stdout.splitlines()]
    assert [event["event"] for event in events] == ["line", "line", "state"]
    assert events[1]["line"]["text"] == "[bold]last[/bold] line"
    assert events[2]["job"]["state"] == state


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "rubbish"], 2, "valid UUID"),
        (["follow", str(uuid.UUID(int=1))], 3, "There is no job"),
        (["list", "--state", "done"], 2, "one of queued, running"),
        (["list", "--kind", "tuning"], 2, "one of training, check, pull"),
    ],
)
def test_what_is_no_job_is_refused(run: Run, arguments: list[str], code: int, said: str) -> None:
    done = run("jobs", *arguments)
    assert done.returncode == code
    assert said in done.stderr and "Traceback" not in done.stderr
