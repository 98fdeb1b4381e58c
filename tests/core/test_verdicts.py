"""The gate's verdicts, in PostgreSQL."""

import uuid
from dataclasses import replace

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from core.verdicts import (
    Check,
    Verdict,
    VerdictOutcome,
    find_verdict,
    load_passed_versions,
    load_verdicts,
    store_verdict,
)

VERDICT = Verdict(
    model="prices",
    version=3,
    champion_version=2,
    outcome="promote",
    reason="better by 1 to 3 %",
    checks=(
        Check("data", has_passed=True, value=120.0, threshold=100.0, reason="120 rows, 100 are needed"),
        Check("sanity", has_passed=True, value=None, threshold=None, reason="“fine” – größer"),
    ),
)


def test_verdict_is_read_as_it_was_stored_check_by_check(engine: Engine) -> None:
    with engine.begin() as connection:
        verdict_id = store_verdict(connection, VERDICT, None)
    with engine.connect() as connection:
        assert find_verdict(connection, verdict_id) == VERDICT
        (stored,) = load_verdicts(connection, "prices")

    assert (stored.id, stored.verdict) == (verdict_id, VERDICT)
    assert stored.decided_at.utcoffset() is not None


def test_first_version_has_no_champion(engine: Engine) -> None:
    first = replace(VERDICT, champion_version=None, checks=())
    with engine.begin() as connection:
        assert find_verdict(connection, store_verdict(connection, first, None)) == first


def test_verdict_that_was_never_given_is_none(engine: Engine) -> None:
    with engine.connect() as connection:
        assert find_verdict(connection, uuid.uuid4()) is None


def test_verdict_of_a_training_that_does_not_exist_is_not_stored(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(IntegrityError):
        store_verdict(connection, VERDICT, uuid.uuid4())


def test_verdicts_are_listed_for_one_model_newest_first_up_to_a_limit(engine: Engine) -> None:
    for version in (1, 2, 3):
        with engine.begin() as connection:
            store_verdict(connection, replace(VERDICT, version=version), None)
            store_verdict(connection, replace(VERDICT, model="other", version=9), None)

    with engine.connect() as connection:
        assert [stored.verdict.version for stored in load_verdicts(connection, "prices")] == [3, 2, 1]
        assert [stored.verdict.version for stored in load_verdicts(connection, "prices", limit=2)] == [3, 2]


def test_passed_versions_are_those_that_may_be_promoted_each_once_newest_first(engine: Engine) -> None:
    given: list[tuple[int, VerdictOutcome]] = [
        (1, "promote"),
        (12, "promote"),
        (3, "keep"),
        (4, "refuse"),
        (5, "insufficient_evidence"),
        (2, "promote"),
        (1, "promote"),
    ]
    with engine.begin() as connection:
        for version, outcome in given:
            store_verdict(connection, replace(VERDICT, version=version, outcome=outcome), None)
        store_verdict(connection, replace(VERDICT, model="other", version=99), None)

        assert load_passed_versions(connection, "prices") == [12, 2, 1]
        assert load_passed_versions(connection, "unknown") == []
