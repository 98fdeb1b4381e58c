"""From a finding to a mailbox, a signed webhook and Slack's shape, through faults."""

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine

from core.alerts import Alert, AlertMessage, load_alerts, load_messages, raise_alert
from core.connections import Connections, open_connections
from core.findings import Finding, attach_report, store_finding
from core.policies import AlertPolicy
from core.settings import load_settings
from monitoring.alerting import deliver_due, note_finding, try_channels
from monitoring.drift import DriftMeasure, FeatureDrift
from monitoring.messages import build_mail
from tests.conftest import find_free_port
from tests.monitoring.receivers import PASSWORD, USER, Mailbox, Receiver, running_mailbox, running_receiver

HOSTILE = "</script><script>alert(1)</script>"
KEY = bytes(range(32))
PNG = b"\x89PNG\r\n"


@dataclass(frozen=True)
class Posted:
    """The platform's side, a mailbox and a receiver of webhooks."""

    connections: Connections
    mailbox: Mailbox
    receiver: Receiver

    def note(self, finding: Finding, *, is_tentative: bool = False, is_judged: bool = True) -> None:
        with self.connections.engine.begin() as connection:
            store_finding(connection, finding)
            note_finding(connection, finding, is_tentative=is_tentative, is_judged=is_judged)

    def deliver(self, after: timedelta = timedelta(minutes=10), policy: AlertPolicy | None = None) -> int:
        policies = {} if policy is None else {"prices": policy}
        return deliver_due(self.connections, policies, datetime.now(UTC) + after)

    def load(self) -> tuple[Alert, dict[tuple[str, str], AlertMessage]]:
        with self.connections.engine.connect() as connection:
            alert = load_alerts(connection, "prices")[0]
            return alert, {(one.channel, one.occasion): one for one in load_messages(connection, alert.id)}


@pytest.fixture
def posted(migrated_database_url: str, tmp_path: Path) -> Iterator[Posted]:
    with running_mailbox(tmp_path) as (mailbox, authority), running_receiver() as receiver:
        settings = load_settings(
            home=tmp_path / "home",
            tracking_uri=f"http://127.0.0.1:{find_free_port()}",
            smtp_url=f"smtp://{USER}:{quote(PASSWORD, safe='')}@localhost:{mailbox.port}",
            smtp_ca_file=authority,
            alert_mail_to="ops@example.org, data@example.org",
            alert_webhook_url=f"{receiver.address}/hook?key=hidden",
            alert_webhook_secret="whsec_" + base64.b64encode(KEY).decode(),
            alert_slack_url=f"{receiver.address}/slack",
            public_url="https://millrace.example.org",
        )
        with open_connections(settings, migrated_database_url) as connections:
            yield Posted(connections, mailbox, receiver)


def build_finding(outcome: str = "alert", name: str = "return") -> Finding:
    """A finding of now, without a report."""
    now = datetime.now(UTC)
    measure = DriftMeasure(500, 0, (FeatureDrift(name, 500, 0.3, 0.2, 0.7, is_drifted=True),), (), is_conclusive=True)
    return Finding(
        id=uuid.uuid4(),
        model="prices",
        version=3,
        subject="drift",
        outcome=outcome,  # type: ignore[arg-type]  # a literal
        is_drifted=outcome != "fine",
        reasons=[f"{name} drifted: distance 0.300 above its threshold 0.200"],
        statistic=0.3,
        threshold=0.2,
        rows=500,
        measure=asdict(measure),
        report_uri=None,
        training_id=None,
        window_from_at=now - timedelta(hours=168),
        window_to_at=now,
        found_at=now,
    )


def test_finding_reaches_the_mailbox_the_webhook_and_slack_once(posted: Posted) -> None:
    finding = build_finding()
    posted.note(finding)
    posted.note(build_finding())
    assert posted.deliver() == 3
    assert posted.deliver() == 0

    (mail,) = posted.mailbox.mails
    assert mail["Subject"] == "[Millrace] prices: Drift found (warning)"
    assert posted.mailbox.recipients == [["ops@example.org", "data@example.org"]]
    body = mail.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert "return drifted: distance 0.300 above its threshold 0.200" in text
    assert f"https://millrace.example.org/models/prices/reports/{finding.id}" in text
    picture = next(part for part in mail.iter_attachments() if part.get_content_type() == "image/png")
    assert picture.get_content().startswith(PNG)

    posts = {path.split("?")[0]: (headers, content) for path, headers, content in posted.receiver.posted}
    headers, content = posts["/hook"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    document = json.loads(content)
    assert (document["type"], document["alert"]["model"], document["alert"]["severity"]) == (
        "alert.raised",
        "prices",
        "warning",
    )
    assert "Drift found" in json.loads(posts["/slack"][1])["text"]


def test_message_tells_when_it_is_over(posted: Posted) -> None:
    posted.note(build_finding())
    posted.deliver()
    posted.note(build_finding("fine"), is_judged=False)
    assert posted.deliver() == 0, "what is too little to judge clears nothing"
    posted.note(build_finding("fine"))
    assert posted.deliver() == 3
    raised, cleared = posted.mailbox.mails
    assert cleared["Subject"] == "[Millrace] prices: over: Drift found"
    assert cleared["References"] == raised["References"]
    alert, _ = posted.load()
    assert alert.cleared_at is not None


def test_drift_wakes_nobody_before_it_is_confirmed(posted: Posted) -> None:
    posted.note(build_finding(), is_tentative=True)
    # By its policy a webhook takes all that there is to know.
    assert posted.deliver() == 1
    assert posted.mailbox.mails == []
    assert posted.load()[0].severity == "info"

    confirmed = build_finding("retrain")
    posted.note(confirmed)
    assert posted.deliver() == 3
    (mail,) = posted.mailbox.mails
    assert mail["Subject"] == "[Millrace] prices: Drift confirmed, retraining started (warning)"
    assert posted.load()[0].finding_id == confirmed.id

    posted.note(build_finding("fine"))
    assert posted.deliver() == 3
    # One that nobody was woken for ends as quietly.
    posted.note(build_finding(), is_tentative=True)
    posted.note(build_finding("fine"))
    posted.deliver()
    assert len(posted.mailbox.mails) == 2


def test_channel_that_fails_is_waited_for_once_a_look_and_each_message_has_its_turn(posted: Posted) -> None:
    models = [f"model_{number}" for number in range(3)]
    for model in models:
        posted.note(replace(build_finding(), model=model, subject="performance"))
    posted.mailbox.is_refusing = True
    assert posted.deliver() == 6
    assert posted.mailbox.refusals == 1
    posted.deliver(timedelta(minutes=10))
    assert posted.mailbox.refusals == 2
    posted.mailbox.is_refusing = False
    assert posted.deliver(timedelta(minutes=20)) == 3
    assert sorted(mail["Subject"].split()[1] for mail in posted.mailbox.mails) == [f"{model}:" for model in models]


def test_message_that_cannot_be_made_keeps_no_other_from_people(
    posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("broken", "whole"):
        posted.note(replace(build_finding(), model=model, subject="performance"))

    def build(alert: Alert, *arguments: Any, **fields: Any) -> EmailMessage:
        if alert.model == "broken":
            raise ValueError("a header that no mail may have")
        return build_mail(alert, *arguments, **fields)

    monkeypatch.setattr("monitoring.alerting.build_mail", build)
    assert posted.deliver(timedelta(minutes=10)) == 4
    assert posted.deliver(timedelta(minutes=10)) == 1
    assert [mail["Subject"].split()[1] for mail in posted.mailbox.mails] == ["whole:"]
    with posted.connections.engine.connect() as connection:
        (alert,) = load_alerts(connection, "broken")
        (waiting,) = (one for one in load_messages(connection, alert.id) if one.channel == "mail")
    assert (waiting.state, waiting.error) == ("waiting", "ValueError")


def test_finding_whose_picture_cannot_be_drawn_is_told_of_without_it(posted: Posted) -> None:
    finding = build_finding()
    posted.note(replace(finding, measure={**finding.measure, "missing": None}))
    assert posted.deliver() == 3
    assert list(posted.mailbox.mails[0].iter_attachments()) == []


def test_address_that_the_mail_server_refuses_is_named_and_the_others_are_told(posted: Posted) -> None:
    posted.mailbox.unknown = {"data@example.org"}
    posted.note(build_finding())
    assert posted.deliver() == 3
    message = posted.load()[1]["mail", "raised"]
    assert (message.state, message.error) == ("delivered", "not to data@example.org")
    assert posted.mailbox.recipients == [["ops@example.org"]]


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"subject": "performance"}, "Realised error worse than promised"),
        ({"measure": {"fault": "no reference"}}, "A version cannot be checked"),
    ],
)
def test_mail_waits_for_no_report_that_nobody_writes(posted: Posted, fields: dict[str, Any], title: str) -> None:
    posted.note(replace(build_finding(), **fields))
    assert posted.deliver(timedelta(0)) == 3
    (mail,) = posted.mailbox.mails
    assert mail["Subject"] == f"[Millrace] prices: {title} (warning)"


def test_retraining_for_its_error_alone_is_not_called_drift(posted: Posted) -> None:
    posted.note(replace(build_finding("retrain"), is_drifted=False))
    assert posted.load()[0].title == "Realised error worse than promised, retraining started"


def test_mail_has_the_report_attached(
    posted: Posted, tracking_server: str, migrated_database_url: str, tmp_path: Path
) -> None:
    settings = posted.connections.settings.model_copy(update={"tracking_uri": tracking_server})
    with open_connections(settings, migrated_database_url) as connections:
        page = tmp_path / "report.html"
        page.write_text("<html>the page</html>")
        run_id = connections.tracking.start_run("prices", None, {})
        connections.tracking.log_artifact(run_id, page, "reports/x")
        finding = build_finding()
        with_report = replace(posted, connections=connections)
        with_report.note(finding)
        # The mail waits for its report; the others need none.
        assert with_report.deliver(timedelta(0)) == 2
        with connections.engine.begin() as connection:
            attach_report(connection, finding.id, f"runs:/{run_id}/reports/x/report.html", {})
        assert with_report.deliver(timedelta(minutes=1)) == 1
    (mail,) = posted.mailbox.mails
    attached = {part.get_filename(): part for part in mail.iter_attachments()}
    assert attached["report.html"].get_content_type() == "text/html"
    assert "the page" in attached["report.html"].get_content()


def test_mail_goes_without_its_report_where_the_artifacts_are_away(posted: Posted) -> None:
    finding = build_finding()
    posted.note(finding)
    with posted.connections.engine.begin() as connection:
        attach_report(connection, finding.id, "runs:/abc/reports/x/report.html", {})
    assert posted.deliver() == 3
    body = posted.mailbox.mails[0].get_body(("plain",))
    assert body is not None
    assert "The report is not attached" in body.get_content()


def test_mail_server_that_is_away_for_an_hour_loses_no_message(posted: Posted) -> None:
    posted.note(build_finding())
    posted.mailbox.stop()
    tries = 0
    for minute in range(10, 70):
        posted.deliver(timedelta(minutes=minute))
        tries = posted.load()[1]["mail", "raised"].attempts
    message = posted.load()[1]["mail", "raised"]
    assert (message.state, message.delivered_at) == ("waiting", None)
    assert message.error is not None and PASSWORD not in message.error
    assert 5 <= tries <= 15, "again and again, and less and less often"
    # The others did not wait for it.
    assert len(posted.receiver.posted) == 2
    posted.mailbox.start()
    assert posted.deliver(timedelta(minutes=90)) == 1
    assert len(posted.mailbox.mails) == 1


def test_refusal_of_a_receiver_is_tried_again(posted: Posted) -> None:
    posted.mailbox.is_refusing = True
    posted.receiver.status = 500
    posted.note(build_finding())
    assert posted.deliver() == 0
    _, messages = posted.load()
    assert {key[0]: one.error for key, one in messages.items()} == {
        "mail": "the server answered 451",
        "webhook": "the receiver answered with status 500",
        "slack": "the receiver answered with status 500",
    }
    posted.mailbox.is_refusing = False
    posted.receiver.status = 200
    assert posted.deliver(timedelta(minutes=20)) == 3
    ids = [headers["webhook-id"] for path, headers, _ in posted.receiver.posted if path.startswith("/hook")]
    assert len(ids) == 2 and len(set(ids)) == 1, "a receiver knows a message that comes again by its id"


def test_policy_of_the_workload_says_what_is_sent_where(posted: Posted) -> None:
    policy = AlertPolicy(mail="critical", webhook=None, slack="info", mail_to=("owner@example.org",))
    posted.note(build_finding())
    assert posted.deliver(policy=policy) == 1
    assert posted.mailbox.mails == []
    assert {one.channel: one.state for one in posted.load()[1].values()} == {
        "mail": "unwanted",
        "webhook": "unwanted",
        "slack": "delivered",
    }
    posted.note(build_finding("data_incident"))
    assert posted.deliver(policy=policy) == 2
    assert posted.mailbox.recipients == [["ops@example.org", "data@example.org", "owner@example.org"]]


def test_channels_that_are_not_set_up_are_not_waited_for(migrated_database_url: str, tmp_path: Path) -> None:
    with open_connections(load_settings(home=tmp_path), migrated_database_url) as connections:
        with connections.engine.begin() as connection:
            alert = raise_alert(connection, "prices", "drift", "critical", "Drift found", [])
        assert deliver_due(connections, {}, datetime.now(UTC) + timedelta(minutes=1)) == 0
        with connections.engine.connect() as connection:
            assert {one.state for one in load_messages(connection, alert.id)} == {"unwanted"}


def test_hostile_names_are_text_everywhere(posted: Posted) -> None:
    posted.note(build_finding(name=HOSTILE + "\r\nBcc: someone@example.org"))
    assert posted.deliver() == 3
    (mail,) = posted.mailbox.mails
    assert mail["Bcc"] is None
    slack = next(content for path, _, content in posted.receiver.posted if path == "/slack")
    assert b"<script>" not in slack


def test_trial_message_names_what_does_not_work(posted: Posted) -> None:
    posted.receiver.status = 404
    outcomes = try_channels(posted.connections.settings, "trial", datetime.now(UTC))
    assert outcomes["mail"] is None
    assert {name for name, failure in outcomes.items() if failure is not None} == {"webhook", "slack"}
    assert posted.mailbox.mails[0]["Subject"] == "[Millrace] trial message"


def test_certificate_that_is_not_trusted_ends_the_mail(posted: Posted) -> None:
    settings = posted.connections.settings.model_copy(update={"smtp_ca_file": None})
    failure = try_channels(settings, "trial", datetime.now(UTC))["mail"]
    assert failure is not None and "SSL" in failure.reason
    assert posted.mailbox.mails == []


def test_alerts_of_the_engine_are_raised_with_the_finding_or_not_at_all(engine: Engine) -> None:
    finding = build_finding()

    with engine.connect() as connection:
        store_finding(connection, finding)
        note_finding(connection, finding)
        # The process ends before it commits.
    with engine.connect() as connection:
        assert load_alerts(connection) == []
