"""Errors of answering predictions; the categories are those of `core.errors`."""

from core.errors import StepFailed, Unavailable


class Overloaded(Unavailable):
    """More requests are being answered than this process takes on at once."""

    def __init__(self, most: int) -> None:
        super().__init__(f"This process answers {most} requests already, which is the most it takes on; try again.")


class AnswerTooSlow(Unavailable):
    def __init__(self, model: str, version: int, timeout_s: float) -> None:
        super().__init__(
            f"Version {version} of model {model!r} did not answer within {timeout_s:g} s. Send fewer rows at once, or "
            "raise MILLRACE_REQUEST_TIMEOUT_S."
        )


class JournalFull(Unavailable):
    def __init__(self, used_bytes: int, max_bytes: int) -> None:
        super().__init__(
            f"The prediction journal is full ({used_bytes} of {max_bytes} bytes) because the database has not taken "
            "it in; no prediction is answered that could not be recorded."
        )


class JournalUnwritable(Unavailable):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The prediction journal cannot be written: {reason}; no prediction is answered that could not be recorded."
        )


class RuntimeMissing(StepFailed):
    """A version without ONNX needs TensorFlow, which is not installed where it is to be loaded."""

    def __init__(self) -> None:
        super().__init__(
            "It has no ONNX model, and the runtime that it needs, TensorFlow, is not installed in this process's "
            "environment: install millrace[serving-tensorflow] there, or train a version that can be exported."
        )


class AnswerNotFinite(StepFailed):
    """A version computed NaN or infinity from an input that its contract allows: nothing of it is answered."""

    def __init__(self, model: str, version: int) -> None:
        super().__init__(
            f"Version {version} of model {model!r} computed a value that is not finite from an input that its contract "
            f"allows; `millrace rollback {model}` brings the previous version back."
        )
