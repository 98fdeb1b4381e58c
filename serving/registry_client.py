"""What serving asks of the registry, and when its client is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from core.settings import Settings


class RegistryClient(Protocol):
    """The part of `core.registry.Registry` that serving uses; every method raises TrackingUnavailable."""

    def load_production_versions(self) -> dict[str, int]:
        """The version in Production of every model that has one."""
        ...

    def download(self, model: str, version: int, folder: Path) -> None:
        """Put the version's files into the empty `folder`; raises ModelVersionNotFound."""
        ...


OpenRegistry = Callable[[Settings], RegistryClient]


def open_registry(settings: Settings) -> RegistryClient:
    """The registry's client. It loads MLflow, which takes two seconds, with the first version that is fetched."""
    from core.registry import Registry

    return Registry(settings.tracking_address)
