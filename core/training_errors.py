"""Typed errors of asking for a training, and of waiting for it."""

from core.errors import Conflict, InvalidInput, show_value


class RunRejected(InvalidInput):
    """A run of MLflow that was to be a training's own cannot be."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"The run {show_value(run_id)} cannot be the training's own: {reason}.")


class TrainingWithoutVersion(Conflict):
    """A training that a request waited for ended without a version."""

    def __init__(self, model: str, training_id: str, state: str, reason: str) -> None:
        self.training_id = training_id
        self.state = state
        super().__init__(
            f"The training of {model!r} has {'failed' if state == 'failed' else f'ended as {state}'}: {reason} "
            "The rows of the file are stored; what serves is as it was."
        )

    def facts(self) -> dict[str, object]:
        return {"training_id": self.training_id, "state": self.state, "location": f"/trainings/{self.training_id}"}
