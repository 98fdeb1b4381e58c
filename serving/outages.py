"""What is away at the moment: logged once when it goes and once when it is back, not at every attempt."""

import logging
import time

logger = logging.getLogger(__name__)


class Outage:
    """The state of one thing that serving needs but can do without for a while."""

    def __init__(self, what: str, consequence: str) -> None:
        self._what = what
        self._consequence = consequence
        self._since_s: float | None = None
        self._reason = ""

    @property
    def reason(self) -> str | None:
        """Why it is away, or None while it is there."""
        if self._since_s is None:
            return None
        return f"{self._reason} (for {time.monotonic() - self._since_s:.0f} s)"

    @property
    def cause(self) -> str:
        """What the last failed attempt said."""
        return self._reason

    def begin(self, error: Exception) -> None:
        """An attempt failed."""
        # A database error of SQLAlchemy carries the driver's own, which says it without the statement.
        cause = getattr(error, "orig", None) or error
        self._reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
        if self._since_s is None:
            self._since_s = time.monotonic()
            logger.warning("%s is away: %s. %s", self._what, self._reason, self._consequence)

    def end(self) -> None:
        """An attempt succeeded."""
        if self._since_s is not None:
            logger.warning("%s is back after %.0f s", self._what, time.monotonic() - self._since_s)
            self._since_s = None
