"""What is asked of a model shifts: people get a mail with the report, and a retraining that the gate judges begins."""

import csv
import logging
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx

from tests.accounts import HEADERS
from tests.journeys.running import Platform, wait_for
from tests.monitoring.receivers import Mailbox
from workloads.catalogue import get_workload
from workloads.man_hours.sample import AIRCRAFT, WEEKS

logger = logging.getLogger(__name__)

MODEL = "man_hours"
NEW_WEEKS = 12
MORE_FLYING = 1.8
MOST = {"sum_daily_hours": 168.0, "cycles": 500.0, "sum_monthly_utilisation": 672.0, "man_hours": 1e5}
LONGEST_S = 300.0


def load_rows(folder: Path) -> list[dict[str, Any]]:
    """The weeks that the platform was started with, and new ones, in which every aircraft flies far more."""
    path = folder / "weeks.csv"
    get_workload(MODEL).load_function("sample")(path, rows=AIRCRAFT * (WEEKS + NEW_WEEKS))
    with path.open(encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [dict(row) for row in csv.DictReader(lines)]
    for place, row in enumerate(rows):
        row["age_fleet"] = float(row["age_fleet"])
        more = 1.0 if place < AIRCRAFT * WEEKS else MORE_FLYING
        for name, most in MOST.items():
            row[name] = round(min(float(row[name]) * more, most), 1)
    return rows


def ask(platform: Platform, rows: list[dict[str, Any]]) -> None:
    """Ask for predictions of the rows, and wait until they are counted."""

    def count() -> int:
        counted = platform.query(f"SELECT sum(predictions) FROM request_counts WHERE model = '{MODEL}'")[0][0]  # noqa: S608
        return int(counted or 0)

    before = count()
    features = [{name: value for name, value in row.items() if name != "man_hours"} for row in rows]
    answer = platform.post(f"/models/{MODEL}/predict", {"rows": features})
    assert answer.status_code == 200, answer.text
    wait_for(lambda: count() == before + len(rows), LONGEST_S, "what was asked is counted")


def check(platform: Platform) -> dict[str, Any]:
    """Ask for a check over HTTP; its finding."""
    asked = platform.post(f"/models/{MODEL}/checks", None)
    assert asked.status_code == 202, asked.text
    job = wait_for(lambda: find_ended(platform, asked.headers["location"]), LONGEST_S, "the check has ended")
    assert job["state"] == "finished", job
    found: list[dict[str, Any]] = get(platform, f"/models/{MODEL}/findings").json()
    return found[0]


def get(platform: Platform, path: str) -> httpx.Response:
    response = httpx.get(f"{platform.address}{path}", headers=HEADERS, timeout=60)
    response.raise_for_status()
    return response


def find_ended(platform: Platform, path: str) -> dict[str, Any] | None:
    job: dict[str, Any] = get(platform, path).json()
    return None if job["state"] in ("queued", "running") else job


def find_mail(mailbox: Mailbox) -> EmailMessage | None:
    return next((mail for mail in mailbox.mails if mail["Subject"].startswith(f"[Millrace] {MODEL}:")), None)


def test_shifted_rows_bring_a_mail_with_its_report_and_a_retraining_that_the_gate_judges(
    platform: Platform, mailbox: Mailbox, tmp_path: Path
) -> None:
    began = time.monotonic()
    rows = load_rows(tmp_path)
    # The first rows that are no sample data replace those.
    stored = platform.post(f"/models/{MODEL}/observations", rows)
    assert stored.status_code == 201, stored.text
    served = rows[AIRCRAFT * WEEKS :]
    ask(platform, served[:60])
    first = check(platform)
    assert (first["outcome"], first["training_id"]) == ("alert", None)
    ask(platform, served[60:])
    confirmed = check(platform)
    assert (confirmed["outcome"], confirmed["rows"]) == ("retrain", len(served)), confirmed

    mail = wait_for(lambda: find_mail(mailbox), LONGEST_S, "the mail is there")
    assert mail["Subject"] == f"[Millrace] {MODEL}: Drift confirmed, retraining started (warning)"
    assert mail["To"] == "ops@example.org"
    body = mail.get_body(("plain",))
    assert body is not None
    assert "sum_daily_hours drifted" in body.get_content()
    parts = {part.get_filename(): part for part in mail.iter_attachments()}
    assert parts["drift.png"].get_content_type() == "image/png"
    page = parts["report.html"].get_content()
    assert "Drift confirmed, retraining started" in page and "sum_daily_hours drifted" in page
    shown = get(platform, confirmed["report"])
    assert shown.headers["content-type"].startswith("text/html")

    training = wait_for(
        lambda: find_ended(platform, f"/trainings/{confirmed['training_id']}"), LONGEST_S, "the retraining has ended"
    )
    assert (training["state"], training["cause"], training["finding_id"]) == ("finished", "finding", confirmed["id"])
    assert training["version"] is not None
    verdict = training["verdict"]
    assert verdict["outcome"] in ("promote", "keep"), verdict
    assert {"same_holdout", "parity", "baseline", "champion"} <= {one["name"] for one in verdict["checks"]}, verdict
    logger.info("from shifted rows to the verdict: %.0f s, %s", time.monotonic() - began, verdict["outcome"])
