"""Whether a browser's request comes from a page of ours.

Source: OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Verifying Origin With Standard Headers".
"""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

READING = ("GET", "HEAD", "OPTIONS")


def find_hosts(request: HTTPConnection) -> set[str]:
    """The hosts that the request was sent to: serving forwards with its own, and tells the browser's beside it."""
    return {request.headers[name] for name in ("host", "x-forwarded-host") if request.headers.get(name)}


def is_own_origin(request: HTTPConnection, origin: str) -> bool:
    """Whether the origin is an address that the request was sent to."""
    try:
        netloc = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return netloc in {host.lower() for host in find_hosts(request)}
