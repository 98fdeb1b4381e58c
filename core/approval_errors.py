"""Errors of approvals; the categories are those of `core.errors`."""

from collections.abc import Sequence

from core.errors import Conflict


class NotWaiting(Conflict):
    """A version was to be approved or rejected that does not wait for it."""

    def __init__(self, model: str, version: int, waiting: Sequence[int]) -> None:
        waits = ", ".join(f"version {one}" for one in waiting) or "none"
        super().__init__(f"Version {version} of {model!r} does not wait for an approval; of this model {waits} does.")


class ApprovalOutdated(Conflict):
    """A version waits for an approval that was compared with a champion which has left Production since."""

    def __init__(self, model: str, version: int, judged: int | None, present: int | None) -> None:
        was, now = ("no version" if one is None else f"version {one}" for one in (judged, present))
        super().__init__(
            f"Version {version} of {model!r} is not approved: the gate compared it with {was}, but now {now} is in "
            f"Production. Train again for a fresh verdict (`millrace train {model}`), or override this one: "
            f"`millrace promote {model} {version} --override --reason ...`."
        )
