"""Errors of the door to MLflow: what it lets nobody, or not this role, do."""

from core.errors import InvalidInput, MillraceError, show_value
from core.principals import Role


class TrackingDenied(MillraceError):
    """The door does not let this request through."""


class TrackingRouteUnnamed(TrackingDenied):
    """The door has no right for the method and path, so it lets nobody through."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(
            f"{show_value(f'{method} {path}', 200)} is not among the routes that the door to MLflow knows; "
            "use a route of the MLflow version that this platform runs."
        )


class TrackingRoleTooLow(TrackingDenied):
    """The route is for a higher role."""

    def __init__(self, action: str, name: str, role: Role, needed: Role) -> None:
        super().__init__(
            f"{action} is for the role {needed.word} and above, and {show_value(name)} is {role.word}; "
            "ask an administrator for it."
        )


class TrackingAddressRejected(TrackingDenied):
    """The path can be read in more than one way."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"The path {show_value(path, 200)} is not let through to MLflow: {rule}.")


class TrackingOperationDenied(TrackingDenied):
    """A GraphQL document asks for more than reading what the door knows."""

    def __init__(self, operation: str, allowed: str) -> None:
        super().__init__(f"The GraphQL {operation} is not let through to MLflow; allowed are {allowed}.")


class TrackingLocationDenied(TrackingDenied):
    """An experiment or a trace is to have its files where the tracking server reaches more than artifacts."""

    def __init__(self, location: object) -> None:
        super().__init__(
            f"The artifact location {show_value(location, 200)} is not let through to MLflow: leave it out, or give "
            "one that begins with mlflow-artifacts:/; files of the tracking server's machine are not for its clients."
        )


class TrackingSourceDenied(TrackingDenied):
    """A version is to have its files where the tracking server reaches more than its clients may."""

    def __init__(self, source: object) -> None:
        super().__init__(
            f"The source {show_value(source, 200)} is not let through to MLflow: give one that begins with runs:/, "
            "models:/ or mlflow-artifacts:/; what else the tracking server has keys for is not for its clients."
        )


class TrackingVersionSealed(TrackingDenied):
    """A file of a registered version is to be written."""

    def __init__(self, path: str, model: str, version: int) -> None:
        super().__init__(
            f"{show_value(path, 200)} is a file of version {version} of {show_value(model)}, and nobody writes those "
            "once the version is registered; log and register another version."
        )


class TrackingBodyRejected(InvalidInput):
    """The body is not the JSON object that the route takes."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"The body is not what this route of MLflow takes: {rule}.")


class TransferPastTheDoor(MillraceError):
    """A transfer of artifacts that goes to the store itself, which a client may not reach."""

    def __init__(self) -> None:
        # MLflow's clients know the first words, and go on through the server.
        super().__init__(
            "Multipart upload is not supported for the current artifact repository: artifacts go through the server; "
            "ask for mlflow-artifacts/artifacts/ instead."
        )
