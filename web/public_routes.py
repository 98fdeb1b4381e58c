"""The one list of what is answered to anybody, in serving and in control; everything else asks who asks."""

PUBLIC_PATHS = frozenset(
    {
        # Whether the process turns and can answer: for supervisors and load balancers.
        "/health/live",
        "/health/ready",
        "/health",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
        "/version",
        # How one comes to a token or a session.
        "/token",
        "/sign-in",
        "/first-administrator",
    }
)
DOCUMENTATION_ASSETS = "/docs/assets"


def is_public(path: str) -> bool:
    """Whether anybody may ask for what is at the path."""
    return path in PUBLIC_PATHS or path.startswith(f"{DOCUMENTATION_ASSETS}/")
