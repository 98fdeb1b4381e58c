"""Errors of checks. Their categories are in `core.errors`."""

from collections.abc import Sequence

from core.errors import StepFailed


class CheckFailed(StepFailed):
    """A check, or the page of one, could not be completed; a finding of the model says so too."""

    def __init__(self, models: Sequence[str], reason: str) -> None:
        super().__init__(f"The check of {', '.join(models)} failed: {reason.rstrip('.')}.")
