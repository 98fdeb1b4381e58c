"""Fetching an HTTP(S) address within bounds, for rows that come from outside.

Whoever can name an address could otherwise make the platform read what only it can reach. So every address, also one
that a redirect leads to, is resolved once, its network is judged, and the connection goes to exactly what was judged:
a name that resolves differently the second time gains nothing.
"""

import ipaddress
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import httpx

from core.data_errors import AddressRefused, PullFailed

MAX_REDIRECTS = 5
TIMEOUT_S = 30.0
"""Longest wait for a connection, and for the next piece of an answer."""
DEADLINE_S = 600.0
"""Longest time for the whole of it."""
_NOT_MODIFIED = 304
_HEADERS = {"User-Agent": "millrace", "Accept": "text/csv, application/json, */*;q=0.5"}
# Addresses of IPv4 inside of IPv6: what counts is where they lead.
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Validators:
    """What a server said of its content, to ask next time only for what is new (RFC 9110, section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Fetched:
    """An answer's content, none where it is as it was, and its validators."""

    content: IO[bytes] | None
    validators: Validators


@contextmanager
def fetching(address: str, known: Validators, *, max_bytes: int, allows_private: bool) -> Iterator[Fetched]:
    """The content at `address`, for the length of the block; raises AddressRefused and PullFailed."""
    deadline = time.monotonic() + DEADLINE_S
    with httpx.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT_S) as client, TemporaryFile() as content:
        url = _parse(address)
        for _ in range(MAX_REDIRECTS + 1):
            try:
                answer = client.send(_build_request(client, url, known, allows_private), stream=True)
                if not answer.has_redirect_location:
                    yield _read(answer, url, known, content, max_bytes, deadline)
                    return
                answer.close()
                url = _parse(str(url.join(answer.headers["location"])))
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                raise PullFailed(_show(url), str(error) or type(error).__name__) from error
    raise PullFailed(_show(url), f"more than {MAX_REDIRECTS} redirects")


def show_address(address: str) -> str:
    """The address as records may show it: without what may hold a secret. Raises AddressRefused."""
    return _show(_parse(address))


def _parse(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise AddressRefused(address, f"it is no address ({error})") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise AddressRefused(address, "allowed are http:// and https:// addresses")
    if url.userinfo:
        raise AddressRefused(_show(url), "it holds a user or a password, which would be shown in records")
    return url


def _build_request(client: httpx.Client, url: httpx.URL, known: Validators, allows_private: bool) -> httpx.Request:
    """The request to the one network address that was judged, under the host's own name."""
    place = _resolve(url, allows_private)
    host = url.netloc.decode("ascii")
    headers = {**_HEADERS, "Host": host}
    if known.etag:
        headers["If-None-Match"] = known.etag
    if known.last_modified:
        headers["If-Modified-Since"] = known.last_modified
    # TLS is spoken with the host, and its certificate is checked for that name.
    extensions = {"sni_hostname": url.raw_host.decode("ascii")}
    return client.build_request("GET", url.copy_with(host=str(place)), headers=headers, extensions=extensions)


def _resolve(url: httpx.URL, allows_private: bool) -> Address:
    """The first network address of the host; every one of them has to be public, unless private ones are allowed."""
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        found = socket.getaddrinfo(url.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PullFailed(_show(url), f"the host is not known here ({error.strerror})") from error
    places = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not allows_private and not all(is_public(place) for place in places):
        raise AddressRefused(
            _show(url), "it leads into a private network; MILLRACE_PULL_PRIVATE=true allows that where it is meant"
        )
    return places[0]


def is_public(place: Address) -> bool:
    """Whether the network address is one of the open internet."""
    if isinstance(place, ipaddress.IPv6Address):
        inner = place.ipv4_mapped or place.sixtofour or (place.teredo[1] if place.teredo else None)
        if inner is None and place in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(place) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return place.is_global and not place.is_multicast


def _read(
    answer: httpx.Response, url: httpx.URL, known: Validators, content: IO[bytes], max_bytes: int, deadline: float
) -> Fetched:
    if answer.status_code == _NOT_MODIFIED:
        return Fetched(None, known)
    if answer.status_code != httpx.codes.OK:
        raise PullFailed(_show(url), f"the server answered {answer.status_code} {answer.reason_phrase}")
    size = int(answer.headers.get("content-length", 0))
    if size <= max_bytes:
        size = 0
        for piece in answer.iter_bytes():
            size += len(piece)
            if size > max_bytes:
                break
            content.write(piece)
            if time.monotonic() > deadline:
                raise PullFailed(_show(url), f"it took more than {DEADLINE_S:.0f} s")
    if size > max_bytes:
        raise PullFailed(
            _show(url), f"it has more than the {max_bytes} bytes that are taken (MILLRACE_MAX_UPLOAD_BYTES)"
        )
    content.seek(0)
    return Fetched(content, Validators(answer.headers.get("etag"), answer.headers.get("last-modified")))


def _show(url: httpx.URL) -> str:
    """The address as records may show it: without user and query, which may hold secrets."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))
