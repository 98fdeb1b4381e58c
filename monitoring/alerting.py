"""From findings to alerts, and from alerts to people."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage
from functools import partial
from typing import Literal

from sqlalchemy import Connection

from core.alerts import (
    Alert,
    AlertMessage,
    Channel,
    Severity,
    clear_alert,
    get_alert,
    postpone_message,
    raise_alert,
    settle_message,
    take_due_message,
)
from core.connections import Connections
from core.delivery_errors import DeliveryFailed
from core.errors import FindingNotFound, Unavailable
from core.findings import Finding, Outcome, get_finding
from core.policies import AlertPolicy
from core.settings import Settings
from monitoring.channels import send_mail, send_slack, send_webhook
from monitoring.history import SUBJECT
from monitoring.messages import Evidence, build_document, build_mail, build_text
from monitoring.page import choose_title
from monitoring.picture import draw_finding

logger = logging.getLogger(__name__)

_FIRST_WAIT = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(minutes=15)
_REPORT_WAIT = timedelta(minutes=5)
_MAX_REPORT_BYTES = 10 * 2**20
_RUN_SCHEME = "runs:/"
_SEVERITIES: Mapping[Outcome, Severity] = {"alert": "warning", "retrain": "warning", "data_incident": "critical"}
# Of subjects other than drift; what a version does in its first hours is why it is taken back.
_TITLES: Mapping[str, str] = {
    "performance": "Realised error worse than promised",
    "check": "A check, or its report, failed",
    "probation": "A new version does not hold",
}
_NOT_CHECKED = "A version cannot be checked"


def note_finding(
    connection: Connection, finding: Finding, *, is_tentative: bool = False, is_judged: bool = True
) -> None:
    """Raise or clear the alert of what was checked, in the transaction that stores the finding.

    What is tentative, such as drift that one check alone has seen, is no more than information: nobody is woken for the
    checks that raise an alarm on unchanged data. What was too little to judge neither raises nor clears.
    """
    severity = "info" if is_tentative else _SEVERITIES.get(finding.outcome)
    if severity is not None:
        title = _choose_title(finding)
        raise_alert(connection, finding.model, finding.subject, severity, title, finding.reasons, finding_id=finding.id)
    elif is_judged:
        clear_alert(connection, finding.model, finding.subject, "; ".join(finding.reasons))


def _choose_title(finding: Finding) -> str:
    if finding.subject != SUBJECT:
        return _TITLES[finding.subject]
    return (
        _NOT_CHECKED if finding.measure.get("fault") else choose_title(finding.outcome, is_drifted=finding.is_drifted)
    )


def deliver_due(connections: Connections, policies: Mapping[str, AlertPolicy], now: datetime) -> int:
    """Send every message that is due at `now`; returns how many were delivered.

    What cannot be delivered is tried again, later and later up to every 15 minutes, until it is. The channel's other
    messages then wait for the next look: a server that does not answer is waited for once. A message of which the
    sending was not noted, because the process ended in between, is sent again under the same id.
    """
    delivered = 0
    failed: set[Channel] = set()
    while True:
        with connections.engine.begin() as connection:
            message = take_due_message(connection, now, without=failed)
            if message is None:
                return delivered
            state = _deliver(connections, connection, message, policies, now)
        delivered += state == "delivered"
        if state == "failed":
            failed.add(message.channel)


def _deliver(
    connections: Connections,
    connection: Connection,
    message: AlertMessage,
    policies: Mapping[str, AlertPolicy],
    now: datetime,
) -> Literal["delivered", "unwanted", "postponed", "failed"]:
    settings = connections.settings
    alert = get_alert(connection, message.alert_id)
    policy = policies.get(alert.model, AlertPolicy())
    unwanted = _find_unwanted(settings, policy, message.channel, alert)
    if unwanted is not None:
        settle_message(connection, message, "unwanted", now, unwanted)
        return "unwanted"
    finding = _find_finding(connection, alert)
    if message.channel == "mail" and message.occasion == "raised" and _is_report_coming(finding, now):
        postpone_message(connection, message, now + _FIRST_WAIT, "its report is being written")
        return "postponed"
    try:
        refused = _send(connections, alert, message, policy, finding, now)
    except DeliveryFailed as error:
        reason = error.reason
        logger.warning("an alert waits", extra={"channel": message.channel, "reason": reason})
    except Exception as error:
        # One message that cannot be made must not keep the others from people.
        reason = type(error).__name__
        logger.exception("an alert waits", extra={"channel": message.channel})
    else:
        settle_message(connection, message, "delivered", now, f"not to {', '.join(refused)}" if refused else None)
        return "delivered"
    wait = min(_FIRST_WAIT * 2 ** min(message.attempts, 10), _LONGEST_WAIT)
    postpone_message(connection, message, now + wait, reason)
    return "failed"


def _is_report_coming(finding: Finding | None, now: datetime) -> bool:
    """Whether the finding's page is likely being written; only comparisons with training get one."""
    if finding is None or finding.report_uri is not None or now - finding.found_at >= _REPORT_WAIT:
        return False
    return finding.subject == SUBJECT and not finding.measure.get("fault")


def _find_unwanted(settings: Settings, policy: AlertPolicy, channel: Channel, alert: Alert) -> str | None:
    """Why the channel does not tell of the alert; None where it does."""
    is_set = {
        "mail": settings.smtp_url is not None and bool(_find_recipients(settings, policy)),
        "webhook": settings.alert_webhook_url is not None,
        "slack": settings.alert_slack_url is not None,
    }[channel]
    if not is_set:
        return "the channel is not set up"
    if not policy.wants(channel, alert.severity):
        return f"the workload's policy does not send what is {alert.severity} by {channel}"
    return None


def _find_recipients(settings: Settings, policy: AlertPolicy) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*settings.mail_recipients, *policy.mail_to)))


def _find_finding(connection: Connection, alert: Alert) -> Finding | None:
    if alert.finding_id is None:
        return None
    try:
        return get_finding(connection, alert.model, alert.finding_id)
    except FindingNotFound:
        return None


def _send(
    connections: Connections,
    alert: Alert,
    message: AlertMessage,
    policy: AlertPolicy,
    finding: Finding | None,
    now: datetime,
) -> Sequence[str]:
    """Send the message; returns the addresses that its server refused while it took others."""
    settings, occasion = connections.settings, message.occasion
    message_id, address = str(message.id), settings.public_address
    match message.channel:
        case "webhook":
            send_webhook(settings, message_id, build_document(alert, occasion, message_id, address), now)
        case "slack":
            send_slack(settings, build_text(alert, occasion, address))
        case "mail":
            recipients = _find_recipients(settings, policy)
            evidence = Evidence() if occasion == "cleared" else _load_evidence(connections, finding)
            mail = build_mail(
                alert,
                occasion,
                message_id=message_id,
                sender=settings.alert_from,
                recipients=recipients,
                address=address,
                evidence=evidence,
                now=now,
            )
            return send_mail(settings, mail, recipients)
    return ()


def _load_evidence(connections: Connections, finding: Finding | None) -> Evidence:
    if finding is None:
        return Evidence()
    picture = _draw(finding)
    if finding.report_uri is None:
        return Evidence(picture=picture, missing="it was not written")
    run_id, _, path = finding.report_uri.removeprefix(_RUN_SCHEME).partition("/")
    try:
        report = connections.tracking.find_artifact(run_id, path, _MAX_REPORT_BYTES)
    except Unavailable as error:
        # People are told now; the page can be opened later.
        return Evidence(picture=picture, missing=error.sentence)
    missing = None if report is not None else f"it is larger than {_MAX_REPORT_BYTES // 2**20} MB, or gone"
    return Evidence(report, picture, missing)


def _draw(finding: Finding) -> bytes | None:
    try:
        return draw_finding(finding)
    except Exception:
        # People are told without it.
        logger.exception("the picture of a finding could not be drawn", extra={"finding": str(finding.id)})
        return None


def try_channels(settings: Settings, message_id: str, now: datetime) -> dict[str, DeliveryFailed | None]:
    """Send a trial message by every channel that is set up; returns what failed of each, None where nothing did."""
    text = "This is a trial message; nothing happened."
    mail = EmailMessage()
    mail["Subject"] = "[Millrace] trial message"
    mail["From"] = settings.alert_from
    mail["To"] = ", ".join(settings.mail_recipients)
    mail.set_content(text)
    sent: dict[str, Callable[[], Sequence[str] | None]] = {}
    if settings.smtp_url is not None and settings.mail_recipients:
        sent["mail"] = partial(send_mail, settings, mail, settings.mail_recipients)
    if settings.alert_webhook_url is not None:
        sent["webhook"] = partial(send_webhook, settings, message_id, {"id": message_id, "type": "trial"}, now)
    if settings.alert_slack_url is not None:
        sent["slack"] = partial(send_slack, settings, text)
    outcomes: dict[str, DeliveryFailed | None] = {}
    for channel, send in sent.items():
        try:
            refused = send()
        except DeliveryFailed as error:
            outcomes[channel] = error
        else:
            outcomes[channel] = DeliveryFailed(channel, f"refused for {', '.join(refused)}") if refused else None
    return outcomes
