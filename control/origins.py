"""Which pages may send a browser's requests here: without accounts, a request's origin is all that tells it apart.

A page of another site can make a browser send requests to this machine (cross-site request forgery), or give its own
name this machine's address and then read the answers too (DNS rebinding). The first shows in the Origin header, the
second in the Host. Source: OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Verifying Origin With Standard
Headers".
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from core.errors import show_value

_READING = ("GET", "HEAD", "OPTIONS")


class OriginGuard:
    """Refuses, with 403, a request that another site's page made.

    With `is_local` the addresses used must name this machine, as all do while nothing listens beyond it.
    """

    def __init__(self, *, is_local: bool) -> None:
        self._is_local = is_local

    def check(self, request: HTTPConnection) -> None:
        """Raise a 403 if the request names a host that is not ours, or changes something for another origin."""
        # Serving forwards with a Host of its own, and tells the browser's in X-Forwarded-Host.
        hosts = {request.headers[name] for name in ("host", "x-forwarded-host") if request.headers.get(name)}
        if self._is_local:
            for host in hosts:
                if not _is_this_machine(host):
                    raise HTTPException(403, f"The host {show_value(host)} is not an address of this machine.")
        origin = request.headers.get("origin")
        if origin is None or request.scope["method"] in _READING:
            return
        if _get_netloc(origin) not in {host.lower() for host in hosts}:
            raise HTTPException(403, f"A page of {show_value(origin)} may not change anything here.")


def _get_netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
