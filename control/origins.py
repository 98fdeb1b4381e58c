"""Which pages may send a browser's requests here, whoever is signed in.

A page of another site can make a browser send requests to this machine (cross-site request forgery), or give its own
name this machine's address and then read the answers too (DNS rebinding). The first shows in the Origin header, the
second in the Host.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from core.errors import show_value
from web.origins import READING, find_hosts, is_own_origin


class OriginGuard:
    """Refuses, with 403, a request that another site's page made.

    With `is_local` the addresses used must name this machine, as all do while nothing listens beyond it.
    """

    def __init__(self, *, is_local: bool) -> None:
        self._is_local = is_local

    def check(self, request: HTTPConnection) -> None:
        """Raise a 403 if the request names a host that is not ours, or changes something for another origin."""
        if self._is_local:
            for host in find_hosts(request):
                if not _is_this_machine(host):
                    raise HTTPException(403, f"The host {show_value(host)} is not an address of this machine.")
        origin = request.headers.get("origin")
        if origin is None or request.scope["method"] in READING:
            return
        if not is_own_origin(request, origin):
            raise HTTPException(403, f"A page of {show_value(origin)} may not change anything here.")


def _is_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
