"""Findings, in PostgreSQL."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert, select

from core.errors import FindingNotFound
from core.findings import Finding, attach_report, find_finding, get_finding, load_findings, store_finding
from core.tables.monitoring import findings
from core.tables.trainings import trainings

AT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def build_finding(**fields: object) -> Finding:
    """A finding with an id of its own."""
    finding = Finding(
        id=uuid.uuid4(),
        model="prices",
        version=3,
        subject="drift",
        outcome="alert",
        is_drifted=True,
        reasons=["return strayed by 1.5 times its threshold", "größer"],
        statistic=0.3,
        threshold=0.2,
        rows=2**40,
        measure={"return": {"statistic": 0.3, "bins": [1, 2], "effect": None}},
        report_uri=None,
        training_id=None,
        window_from_at=AT - timedelta(hours=168),
        window_to_at=AT,
        found_at=AT,
    )
    return replace(finding, **fields)  # type: ignore[arg-type]  # the tests name real fields


def test_finding_is_read_as_it_was_stored(engine: Engine) -> None:
    finding = build_finding()
    empty = build_finding(
        outcome="fine", reasons=[], statistic=None, threshold=None, measure={}, window_from_at=None, window_to_at=None
    )

    with engine.begin() as connection:
        store_finding(connection, finding)
        store_finding(connection, empty)
    with engine.connect() as connection:
        assert get_finding(connection, "prices", finding.id) == finding
        assert get_finding(connection, "prices", empty.id) == empty


def test_finding_is_stored_with_the_caller_s_transaction_or_not_at_all(engine: Engine) -> None:
    with engine.connect() as connection:
        store_finding(connection, build_finding())
        connection.rollback()

    with engine.connect() as connection:
        assert load_findings(connection, "prices") == []


def test_finding_of_another_model_is_not_found(engine: Engine) -> None:
    finding = build_finding()
    with engine.begin() as connection:
        store_finding(connection, finding)

        for model, finding_id in (("other", finding.id), ("prices", uuid.uuid4())):
            with pytest.raises(FindingNotFound, match=f"{model!r} has no finding '{finding_id}'"):
                get_finding(connection, model, finding_id)


def test_findings_are_listed_newest_first_by_version_subject_report_and_limit(engine: Engine) -> None:
    stored = {
        name: build_finding(found_at=AT + timedelta(hours=hours), **fields)
        for name, hours, fields in (
            ("oldest", 0, {"version": 1}),
            ("newest", 9, {}),
            ("middle", 5, {"subject": "performance"}),
            ("other", 7, {"model": "other"}),
        )
    }
    with engine.begin() as connection:
        for finding in stored.values():
            store_finding(connection, finding)
        attach_report(connection, stored["oldest"].id, "s3://bucket/report.html", {})

        def names(**options: object) -> list[str]:
            by_id = {finding.id: name for name, finding in stored.items()}
            listed = load_findings(connection, "prices", **options)  # type: ignore[arg-type]  # the tests name real options
            return [by_id[finding.id] for finding in listed]

        assert names() == ["newest", "middle", "oldest"]
        assert names(limit=2) == ["newest", "middle"]
        assert names(version=1) == ["oldest"]
        assert names(version=3, subject="drift") == ["newest"]
        assert names(has_report=True) == ["oldest"]
        assert names(version=3, has_report=True) == []


def test_a_report_is_noted_on_its_finding_alone(engine: Engine) -> None:
    training_id = uuid.uuid4()
    finding, other = build_finding(training_id=training_id), build_finding()
    with engine.begin() as connection:
        connection.execute(
            insert(trainings).values(id=training_id, model="prices", state="queued", cause="finding", actor="check")
        )
        store_finding(connection, finding)
        store_finding(connection, other)

        attach_report(connection, finding.id, "s3://bucket/report.html", {"metrics": [1, 2]})

        noted = replace(finding, report_uri="s3://bucket/report.html")
        assert get_finding(connection, "prices", finding.id) == find_finding(connection, finding.id) == noted
        assert get_finding(connection, "prices", other.id) == other
        assert find_finding(connection, uuid.uuid4()) is None
        reports = {row.id: row.report for row in connection.execute(select(findings.c.id, findings.c.report))}
    assert reports == {finding.id: {"metrics": [1, 2]}, other.id: None}
