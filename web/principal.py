"""Who makes a request, as records name them."""

from starlette.requests import HTTPConnection

LOCAL_ACTOR = "local"


def get_actor(request: HTTPConnection) -> str:
    """The actor of a request. Without accounts the api is reached from this machine alone, and all are `local`."""
    return LOCAL_ACTOR
