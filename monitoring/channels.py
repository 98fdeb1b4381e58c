"""Channels that messages to people go out by: mail, signed webhooks, and what takes Slack's messages.

Apprise knows a hundred more, but neither signs webhooks nor tells a receiver that refuses from one that is away; who
needs more channels routes the webhook, or Prometheus' alerts, through Alertmanager.
"""

import base64
import hashlib
import hmac
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import httpx
import orjson

from core.delivery_errors import DeliveryFailed
from core.settings import WEBHOOK_SECRET_PREFIX, Settings

_TIMEOUT_S = 20.0
_DEFAULT_PORTS = {"smtp": 587, "smtps": 465, "smtp+plain": 25}


def send_mail(settings: Settings, mail: EmailMessage, recipients: Sequence[str]) -> Sequence[str]:
    """Hand the mail to the server of the settings; returns the recipients that it refused while it took others.

    Raises DeliveryFailed.
    """
    if settings.smtp_url is None:
        raise DeliveryFailed("mail", "MILLRACE_SMTP_URL is not set")
    parts = urlsplit(settings.smtp_url.get_secret_value())
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
    trusted = ssl.create_default_context(cafile=settings.smtp_ca_file)
    try:
        server = (
            smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT_S, context=trusted)
            if parts.scheme == "smtps"
            else smtplib.SMTP(host, port, timeout=_TIMEOUT_S)
        )
        with server:
            if parts.scheme == "smtp":
                server.starttls(context=trusted)
            if parts.username is not None:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            return tuple(server.send_message(mail, settings.alert_from, list(recipients)))
    except smtplib.SMTPResponseException as error:
        raise DeliveryFailed("mail", f"the server answered {error.smtp_code}") from error
    except smtplib.SMTPRecipientsRefused as error:
        raise DeliveryFailed("mail", "the server refused every recipient") from error
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryFailed("mail", f"{type(error).__name__} of {host}:{port}") from error


def send_webhook(settings: Settings, message_id: str, document: Mapping[str, object], now: datetime) -> None:
    """Post the document, signed as Standard Webhooks describes (standardwebhooks.com). Raises DeliveryFailed.

    The signature is over `<id>.<seconds since 1970>.<body>`, so that a receiver can refuse what is old or repeated.
    """
    if settings.alert_webhook_url is None or settings.alert_webhook_secret is None:
        raise DeliveryFailed("webhook", "MILLRACE_ALERT_WEBHOOK_URL is not set")
    body = orjson.dumps(document)
    sent_s = str(int(now.timestamp()))
    key = base64.b64decode(settings.alert_webhook_secret.get_secret_value().removeprefix(WEBHOOK_SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{sent_s}.".encode() + body, hashlib.sha256).digest()
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": sent_s,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    _post("webhook", settings.alert_webhook_url.get_secret_value(), body, headers)


def send_slack(settings: Settings, text: str) -> None:
    """Post the text as Slack's incoming webhooks take it. Raises DeliveryFailed."""
    if settings.alert_slack_url is None:
        raise DeliveryFailed("slack", "MILLRACE_ALERT_SLACK_URL is not set")
    # Slack's own three: everything else is text to it.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    _post("slack", settings.alert_slack_url.get_secret_value(), orjson.dumps({"text": escaped}), {})


def _post(channel: str, address: str, body: bytes, headers: Mapping[str, str]) -> None:
    try:
        answer = httpx.post(
            address,
            content=body,
            headers={"content-type": "application/json", **headers},
            timeout=_TIMEOUT_S,
            follow_redirects=False,
        )
    except httpx.HTTPError as error:
        # The address may hold a secret, and so may the error's own words.
        raise DeliveryFailed(channel, type(error).__name__) from None
    if not answer.is_success:
        raise DeliveryFailed(channel, f"the receiver answered with status {answer.status_code}")
