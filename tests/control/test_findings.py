"""Findings and checks over HTTP."""

import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from core.findings import Finding, attach_report, store_finding
from tests.control.running import Controlled

_NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def build_finding(hours: int = 0, model: str = "prices") -> Finding:
    return Finding(
        id=uuid.uuid4(),
        model=model,
        version=3,
        subject="drift",
        outcome="alert",
        is_drifted=True,
        reasons=["log_return strayed"],
        statistic=0.31,
        threshold=0.12,
        rows=500,
        measure={"features": [{"name": "log_return", "statistic": 0.31}]},
        report_uri=None,
        training_id=None,
        window_from_at=_NOON - timedelta(days=7),
        window_to_at=_NOON,
        found_at=_NOON + timedelta(hours=hours),
    )


def test_check_is_enqueued_for_the_model(controlled: Controlled) -> None:
    response = controlled.client.post("/models/prices/checks")
    assert response.status_code == 202
    job_id = response.json()["job_id"]
    assert response.headers["location"] == f"/jobs/{job_id}"
    assert controlled.client.get(f"/jobs/{job_id}").json()["state"] == "queued"
    with controlled.connections.engine.connect() as connection:
        job = connection.execute(text("SELECT task_name, queue_name, args FROM procrastinate_jobs")).one()
    assert tuple(job) == ("check", "checks", {"check_id": job_id})


def test_findings_are_listed_newest_first_and_shown_with_their_measure(controlled: Controlled) -> None:
    earlier, later, foreign = build_finding(0), build_finding(1), build_finding(2, "other")
    with controlled.connections.engine.begin() as connection:
        for finding in (earlier, later, foreign):
            store_finding(connection, finding)
        attach_report(connection, earlier.id, "runs:/r1/reports/x/report.html", {})
    listed = controlled.client.get("/models/prices/findings").json()
    assert [finding["id"] for finding in listed] == [str(later.id), str(earlier.id)]
    assert "measure" not in listed[0]
    assert [finding["report"] for finding in listed] == [None, f"/models/prices/reports/{earlier.id}"]
    assert "r1" not in str(listed)
    shown = controlled.client.get(f"/models/prices/findings/{later.id}").json()
    assert shown["measure"] == later.measure
    assert {name: shown[name] for name in listed[0]} == listed[0]
    with_report = controlled.client.get("/models/prices/reports").json()
    assert with_report == [listed[1]]


def test_finding_of_another_model_is_not_found(controlled: Controlled) -> None:
    foreign = build_finding(0, "other")
    with controlled.connections.engine.begin() as connection:
        store_finding(connection, foreign)
    response = controlled.client.get(f"/models/prices/findings/{foreign.id}")
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/finding-not-found"


def test_finding_without_report_has_no_page(controlled: Controlled) -> None:
    finding = build_finding()
    with controlled.connections.engine.begin() as connection:
        store_finding(connection, finding)
    response = controlled.client.get(f"/models/prices/reports/{finding.id}")
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/report-not-found"
