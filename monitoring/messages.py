"""What each channel says of an alert."""

from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime

from core.alerts import Alert, Occasion

_REPORT_NAME, _PICTURE_NAME = "report.html", "drift.png"


@dataclass(frozen=True)
class Evidence:
    """What goes with a mail: the finding's page and picture, or why the page is not there."""

    report: bytes | None = None
    picture: bytes | None = None
    missing: str | None = None


def build_subject(alert: Alert, occasion: Occasion) -> str:
    """One line: the model, what it is, and how bad."""
    if occasion == "cleared":
        return f"[Millrace] {alert.model}: over: {alert.title}"
    return f"[Millrace] {alert.model}: {alert.title} ({alert.severity})"


def build_text(alert: Alert, occasion: Occasion, address: str, missing: str | None = None) -> str:
    """The message as plain text, with links below `address`."""
    lines = [build_subject(alert, occasion).removeprefix("[Millrace] "), ""]
    if occasion == "cleared":
        lines.append(f"It lasted from {_show(alert.raised_at)} to {_show(alert.cleared_at)}: {alert.cleared_reason}.")
        lines.append(f"It was met {alert.times} time{'s' if alert.times > 1 else ''}.")
    else:
        lines.append(f"Since {_show(alert.raised_at)}:")
        lines += [f"- {reason}" for reason in alert.reasons]
    lines.append("")
    if alert.finding_id is not None:
        lines.append(f"Finding: {address}/models/{alert.model}/findings/{alert.finding_id}")
        lines.append(f"Report: {address}/models/{alert.model}/reports/{alert.finding_id}")
    if missing is not None:
        lines.append(f"The report is not attached: {missing}")
    lines.append("You are told once, and again when it is over.")
    return "\n".join(lines) + "\n"


def build_mail(
    alert: Alert,
    occasion: Occasion,
    *,
    message_id: str,
    sender: str,
    recipients: tuple[str, ...],
    address: str,
    evidence: Evidence,
    now: datetime,
) -> EmailMessage:
    """The mail: text, the picture, the report as an attachment. Mails of one alert make one thread."""
    mail = EmailMessage()
    mail["Subject"] = build_subject(alert, occasion)
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Date"] = format_datetime(now)
    # The same message again, after a fault between sending and noting it, is known by its id.
    mail["Message-ID"] = f"<{message_id}@millrace>"
    mail["References"] = f"<alert-{alert.id}@millrace>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(build_text(alert, occasion, address, evidence.missing))
    if evidence.picture is not None:
        mail.add_attachment(
            evidence.picture, maintype="image", subtype="png", filename=_PICTURE_NAME, disposition="inline"
        )
    if evidence.report is not None:
        mail.add_attachment(evidence.report, maintype="text", subtype="html", filename=_REPORT_NAME)
    return mail


def build_document(alert: Alert, occasion: Occasion, message_id: str, address: str) -> dict[str, object]:
    """The webhook's body."""
    is_found = alert.finding_id is not None
    return {
        "id": message_id,
        "type": f"alert.{occasion}",
        "alert": {
            "id": str(alert.id),
            "model": alert.model,
            "cause": alert.cause,
            "severity": alert.severity,
            "title": alert.title,
            "reasons": list(alert.reasons),
            "times": alert.times,
            "raised_at": alert.raised_at,
            "cleared_at": alert.cleared_at,
            "cleared_reason": alert.cleared_reason,
            "finding": f"{address}/models/{alert.model}/findings/{alert.finding_id}" if is_found else None,
            "report": f"{address}/models/{alert.model}/reports/{alert.finding_id}" if is_found else None,
        },
    }


def _show(at: datetime | None) -> str:
    return "?" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"
