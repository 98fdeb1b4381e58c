"""From what was asked for, `Production`, `latest` or a version's number or name, to one version."""

from collections.abc import Mapping, Sequence

from core.connections import Connections
from core.errors import ModelVersionNotFound, NoProductionVersion
from core.targets import LATEST, PRODUCTION
from core.verdicts import load_passed_versions
from core.version_names import find_numbered, load_version_names

_SHOWN_VERSIONS = 10


def resolve_target(
    model: str,
    target: str,
    *,
    production: int | None,
    passed: Sequence[int],
    existing: Sequence[int],
    names: Mapping[str, int],
) -> int:
    """The version that `target` names.

    `production` is the version in stage Production, `passed` those that passed the gate (newest first), `existing`
    all of the registry, `names` the versions by name. Raises NoProductionVersion where a moving target has none yet,
    and ModelVersionNotFound for a pinned version that does not exist: it is never answered by another one.
    """
    if target == PRODUCTION:
        if production is None:
            raise NoProductionVersion(model, target)
        return production
    if target == LATEST:
        usable = [version for version in passed if version in existing]
        if not usable:
            raise NoProductionVersion(model, target)
        return max(usable)
    version = find_numbered(target, names)
    if version is None or version not in existing:
        raise ModelVersionNotFound(model, target, _list_known(existing, names))
    return version


def find_target_version(connections: Connections, model: str, target: str) -> int:
    """The version that `target` names now, asked of registry and database; raises as `resolve_target`."""
    versions = connections.registry.load_versions(model)
    production = connections.registry.find_production(model)
    with connections.engine.connect() as connection:
        passed = load_passed_versions(connection, model)
        names = load_version_names(connection, model)
    return resolve_target(
        model,
        target,
        production=None if production is None else production.version,
        passed=passed,
        existing=[found.version for found in versions],
        names=names,
    )


def _list_known(existing: Sequence[int], names: Mapping[str, int]) -> list[str]:
    by_version = {version: name for name, version in names.items()}
    shown = [f"{version} ({by_version[version]})" if version in by_version else str(version) for version in existing]
    return shown[:_SHOWN_VERSIONS]
