"""Names of versions: given or the day's, never twice."""

import uuid
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine

from core.errors import ParameterRejected, VersionNameTaken
from core.trainings import fail_training, finish_training, request_training, start_attempt
from core.version_names import (
    check_name_is_free,
    check_version_name,
    find_numbered,
    load_version_names,
    reserve_version_name,
    settle_version_name,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def train(connection: Connection, wanted: str | None = None, model: str = "prices") -> tuple[uuid.UUID, str]:
    """A running training with its version's name."""
    training, _ = request_training(connection, model, cause="hand", actor="tests", is_enqueued=False)
    start_attempt(connection, training.id)
    return training.id, reserve_version_name(connection, model, training.id, wanted, NOW)


def finish(engine: Engine, version: int, wanted: str | None = None, model: str = "prices") -> str:
    with engine.begin() as connection:
        training_id, name = train(connection, wanted, model)
        settle_version_name(connection, training_id, version)
        finish_training(connection, training_id, 1)
    return name


def test_versions_of_one_day_are_counted_and_of_each_model_by_itself(engine: Engine) -> None:
    assert [finish(engine, version) for version in (1, 2, 3)] == ["20261121", "20261121.2", "20261121.3"]
    assert finish(engine, 1, model="failures") == "20261121"
    with engine.connect() as connection:
        assert load_version_names(connection, "prices") == {"20261121": 1, "20261121.2": 2, "20261121.3": 3}


def test_a_name_is_given_once(engine: Engine) -> None:
    assert finish(engine, 1, "1.0.0") == "1.0.0"
    with engine.begin() as connection:
        with pytest.raises(VersionNameTaken, match=r"'prices' has a version named '1\.0\.0' already"):
            check_name_is_free(connection, "prices", "1.0.0")
        assert check_name_is_free(connection, "failures", "1.0.0") == "1.0.0"
        with pytest.raises(VersionNameTaken):
            train(connection, "1.0.0")


def test_every_attempt_at_a_training_has_the_same_name(engine: Engine) -> None:
    with engine.begin() as connection:
        training_id, name = train(connection)
        start_attempt(connection, training_id)
        assert reserve_version_name(connection, "prices", training_id, None, NOW) == name


def test_the_name_of_a_training_that_failed_is_free_again(engine: Engine) -> None:
    with engine.begin() as connection:
        training_id, _ = train(connection, "1.0.0")
        with pytest.raises(VersionNameTaken):
            check_name_is_free(connection, "prices", "1.0.0")
        fail_training(connection, training_id, 1, "no rows")
    assert finish(engine, 1, "1.0.0") == "1.0.0"


@pytest.mark.parametrize("name", ["1.0.0", "release-prod", "20261121", "v2_b", "A" * 63])
def test_plain_names_are_taken(name: str) -> None:
    assert check_version_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "3", "0012345", "latest", "LATEST", "Production", "production", "a/b", "../1", "-1", "a b", "A" * 64, "١"],
)
def test_a_name_that_could_be_taken_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(ParameterRejected, match="a name has up to 63 letters"):
        check_version_name(name)


def test_a_short_number_is_the_registrys_and_anything_else_a_name() -> None:
    names = {"20261121": 4, "1.0.0": 2}
    assert [find_numbered(wanted, names) for wanted in ("3", "1.0.0", "20261121", "1.0.1", "012", "²")] == [
        3,
        2,
        4,
        None,
        None,
        None,
    ]
