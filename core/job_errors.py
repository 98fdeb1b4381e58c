"""Errors of jobs: what cannot be followed, cancelled or repeated, and limits that were passed."""

from core.errors import Conflict, NotFound, StepFailed, Unavailable, show_value


class JobNotFound(NotFound):
    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {show_value(job_id)}; `millrace jobs list` shows the recent ones.")


class JobHasEnded(Conflict):
    """A job was to be cancelled that has come to its end."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"Job {job_id} has ended, it is {state}; only a queued or running one can be cancelled.")


class CancelledTooLate(Conflict):
    """A training was to be cancelled whose version is in Production, or on its way there."""

    def __init__(self, training_id: str) -> None:
        super().__init__(
            f"Training {training_id} has its verdict and its version takes Production; it is about to finish. "
            "`millrace rollback` goes back to the version before."
        )


class JobNotStoppable(Conflict):
    """A running job of a kind that cannot be stopped in the middle was to be cancelled."""

    def __init__(self, job_id: str, kind: str) -> None:
        super().__init__(
            f"Job {job_id} is a {kind} that runs already, which cannot be stopped in the middle; it ends by itself "
            "within its time limits."
        )


class JobNotRepeatable(Conflict):
    """A job was to be retried that is not a failed or cancelled training."""

    def __init__(self, job_id: str, kind: str, state: str) -> None:
        super().__init__(
            f"Job {job_id} is a {state} {kind}; only a failed or cancelled training is retried. Ask for a new "
            f"{kind} instead."
        )


class AnotherTrainingOpen(Conflict):
    """A training was to be repeated while another one of its model is queued or running."""

    def __init__(self, model: str, training_id: str, state: str) -> None:
        super().__init__(
            f"Another training of {model!r} is {state}: {training_id}. Retry when it has ended, or cancel it first."
        )


class TrainingEnded(Conflict):
    """An attempt found that its training was ended meanwhile: it must stop without touching anything."""

    def __init__(self, training_id: str, state: str) -> None:
        super().__init__(f"Training {training_id} is {state}; its attempt stops here and changes nothing more.")


class TooManyFollowers(Unavailable):
    def __init__(self, most: int) -> None:
        super().__init__(f"{most} jobs are followed at once already; end one of these requests, or ask again later.")


class TimeLimitPassed(StepFailed):
    """A job took longer than it may."""

    def __init__(self, used_s: float, limit_s: float, setting: str) -> None:
        super().__init__(
            f"It was stopped after {used_s:.0f} s: {limit_s:g} s are allowed. Allow more by {setting}, or by the "
            "workload's limits."
        )


class MemoryLimitPassed(StepFailed):
    """A job's processes together took more memory than they may."""

    def __init__(self, used_bytes: int, limit_bytes: int, setting: str) -> None:
        super().__init__(
            f"It was stopped when its processes used {used_bytes / 2**20:.0f} MiB of memory: "
            f"{limit_bytes / 2**20:.0f} MiB are allowed. Allow more by {setting}, or by the workload's limits."
        )
