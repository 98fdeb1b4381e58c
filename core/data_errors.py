"""Errors of rows and what brings them: files, sources, messages, snapshots. Their categories are in `core.errors`."""

from collections.abc import Sequence

from core.errors import (
    Conflict,
    Fault,
    InvalidInput,
    NotFound,
    SettingsRejected,
    StepFailed,
    Unavailable,
    show_faults,
    show_value,
)


class RowsRejected(InvalidInput):
    """A file or batch of rows was refused as a whole; nothing of it was imported."""

    def __init__(self, model: str, source: str, faults: Sequence[Fault], total: int) -> None:
        self.model = model
        self.source = source
        self.faults = tuple(faults)
        self.total = total
        super().__init__(
            f"{source} was not imported into {model!r}, {total} fault(s): {show_faults(self.faults, total)}. "
            "Nothing was stored from it; correct it and import it again."
        )

    def facts(self) -> dict[str, object]:
        return {
            "model": self.model,
            "source": self.source,
            "total": self.total,
            "errors": [fault.to_document() for fault in self.faults],
        }


class OutcomesNotTaken(InvalidInput):
    """The model takes no outcomes as such."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model!r} takes no outcomes: {reason}.")


class AddressRefused(InvalidInput):
    """An address must not be fetched: it is no HTTP address, or it leads into a private network."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{show_value(address, 200)} is not fetched: {reason}.")


class PulledSourceNotFound(NotFound):
    def __init__(self, model: str, name: str | None, known: Sequence[str]) -> None:
        wanted = "" if name is None else f" {show_value(name)}"
        super().__init__(
            f"Workload {model!r} declares no source{wanted} to pull; declared are {', '.join(known) or 'none'}. "
            "--address pulls any address."
        )


class SnapshotNotFound(NotFound):
    def __init__(self, digest: str) -> None:
        super().__init__(f"There is no snapshot with digest {show_value(digest)}.")


class ObservationNotFound(NotFound):
    def __init__(self, model: str, names: Sequence[str], key: Sequence[str]) -> None:
        super().__init__(
            f"Model {model!r} has no observation {show_value(' '.join(key))}; its key is {', '.join(names)}, in this "
            "order."
        )


class SourceNotFound(NotFound):
    def __init__(self, model: str, source: str) -> None:
        super().__init__(
            f"Model {model!r} has no rejected source {show_value(source)}; `millrace rejected {model}` lists them."
        )


class NothingToSubscribe(Conflict):
    def __init__(self) -> None:
        super().__init__("No workload declares messages; give one `subscriptions` in its workload.py.")


class BrokerUnavailable(Unavailable):
    def __init__(self, address: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"The broker at {address} does not take the connection: {reason}. Start it with `millrace up`, or set "
            "MILLRACE_MQTT_URL."
        )


class PullFailed(Unavailable):
    """A source outside could not be read; what is stored is as it was."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"Nothing could be pulled from {what}: {reason}. It is tried again at its next time.")


class SnapshotRejected(StepFailed):
    """The stored rows do not make a training set."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"No training set for {model!r}: {reason}.")


class WatchedFolderRefused(SettingsRejected):
    """The watched folder cannot be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"The watched folder {path} cannot be used: {reason}. See MILLRACE_WATCH_FOLDER.")
