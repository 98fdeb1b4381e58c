"""Errors of messages to people."""

from core.errors import Unavailable


class DeliveryFailed(Unavailable):
    """A message did not reach its receiver; it is tried again."""

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(f"The message could not be sent by {channel}: {reason}. It is tried again.")
        self.reason = reason
