"""Secrets out of text that is kept where others read it: log lines and the words of a failed child."""

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from core.settings import Settings

MASK = "***"

_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|_KEY(_|$)|AUTHORIZATION", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/]+@", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# A shorter value is a word that logs are full of.
_SHORTEST = 6


class Masker:
    """Replaces known secrets, passwords inside addresses, and credentials of HTTP headers by asterisks."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first, so that no part of one is left.
        known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def mask(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
        return _BEARER.sub(rf"\1 {MASK}", text)


def build_masker(settings: Settings, database_url: str, environment: Mapping[str, str] | None = None) -> Masker:
    """A masker of what this process knows: its settings' passwords, and variables that are named as secrets are."""
    environment = os.environ if environment is None else environment
    secrets = [value for name, value in environment.items() if _SECRET_NAME.search(name)]
    addresses = [database_url]
    for given in (settings.database_url, settings.mlflow_database_url, settings.mqtt_url):
        if given is not None:
            addresses.append(given.get_secret_value())
    for address in addresses:
        password = urlsplit(address).password or ""
        secrets += [password, unquote(password)]
    return Masker(secrets)
