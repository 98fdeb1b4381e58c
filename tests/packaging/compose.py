"""docker-compose.yml as the tests read it: parsed, its variables filled in, joined with the Dockerfile."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from tests.packaging.images import read_stages
from tests.packaging.locks import ROOT

Document = dict[str, "Document"] | list["Document"] | str | int | bool | None

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\}")


@dataclass(frozen=True)
class Service:
    """One of our own services: what its container starts, in which environment, and how it is seen to be well."""

    name: str
    target: str
    command: list[str]
    environment: dict[str, str]
    health: list[str] | None
    """The command that checks it; None where it is switched off."""
    waits_for: dict[str, str]
    """The condition under which each other service counts as ready."""


def read_compose() -> dict[str, dict[str, Document]]:
    """The sections of the file, its variables as they are written."""
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise TypeError("docker-compose.yml is not a mapping")
    return document


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """The text with every `${NAME…}` replaced as Compose does; raises KeyError for a required one without a value."""

    def replace(match: re.Match[str]) -> str:
        name, kind, rest = match["name"], match["kind"], match["rest"]
        value = values.get(name, "")
        if value or kind is None:
            return value
        if kind == ":?":
            raise KeyError(f"{name}: {rest}")
        return str(rest)

    return VARIABLE.sub(replace, text)


def load_services(values: Mapping[str, str]) -> dict[str, Service]:
    """Our own services, in an order in which each comes after those that it waits for."""
    stages = read_stages()
    found: dict[str, Service] = {}
    for name, entry in read_compose()["services"].items():
        if not isinstance(entry, dict) or not isinstance(build := entry.get("build"), dict):
            continue
        stage = stages[str(build["target"])]
        command, environment, health = entry.get("command"), entry.get("environment"), entry.get("healthcheck")
        waits_for = entry.get("depends_on")
        if not isinstance(environment, dict) or not isinstance(waits_for, dict):
            raise TypeError(f"service {name} has no environment or waits for nothing")
        is_off = isinstance(health, dict) and health.get("disable") is True
        found[name] = Service(
            name=name,
            target=stage.name,
            command=[str(part) for part in command] if isinstance(command, list) else list(stage.command or []),
            environment=stage.environment | {key: fill_in(str(value), values) for key, value in environment.items()},
            health=None if is_off else stage.health,
            waits_for={other: str(wait["condition"]) for other, wait in waits_for.items() if isinstance(wait, dict)},
        )
    return _order(found)


def _order(services: dict[str, Service]) -> dict[str, Service]:
    ordered: dict[str, Service] = {}
    while len(ordered) < len(services):
        ready = [
            service
            for service in services.values()
            if service.name not in ordered
            and all(other in ordered or other not in services for other in service.waits_for)
        ]
        if not ready:
            raise ValueError("services wait for each other")
        ordered |= {service.name: service for service in ready}
    return ordered
