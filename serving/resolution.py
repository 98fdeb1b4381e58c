"""From a model's target to one exact version, and what was resolved last, kept for a start with everything away."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from pydantic import ValidationError
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import OperationalError, TimeoutError

from core.contract import Contract
from core.errors import DatabaseUnavailable
from core.tables.data import workloads
from core.targets import LATEST, PRODUCTION, load_targets
from core.verdicts import load_passed_versions
from core.version_names import find_numbered, load_version_names
from serving.version_cache import write_atomically

logger = logging.getLogger(__name__)

_FILE = "resolved.json"


@dataclass(frozen=True)
class Wanted:
    """What the database says of every declared model: its target, its contract, for `latest` its version, and the
    versions by name of a model whose target is neither `Production` nor `latest`."""

    targets: Mapping[str, str]
    contracts: Mapping[str, Contract]
    latest: Mapping[str, int]
    names: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """The exact version that a model's target means; None where there is none."""

    target: str
    version: int | None


def load_wanted(engine: Engine) -> Wanted:
    """What the database says now; raises OperationalError where it is away."""
    with engine.connect() as connection:
        targets = load_targets(connection)
        contracts = connection.execute(select(workloads.c.model, workloads.c.contract)).all()
        passed = {
            model: load_passed_versions(connection, model) for model, target in targets.items() if target == LATEST
        }
        names = {
            model: load_version_names(connection, model)
            for model, target in targets.items()
            if target not in (PRODUCTION, LATEST)
        }
    return Wanted(
        targets=targets,
        contracts=_read_contracts({row.model: row.contract for row in contracts}),
        latest={model: max(versions) for model, versions in passed.items() if versions},
        names=names,
    )


def load_latest(engine: Engine, model: str) -> int | None:
    """The latest version that passed the gate; raises DatabaseUnavailable."""
    with _asking(engine) as connection:
        return max(load_passed_versions(connection, model), default=None)


def load_named(engine: Engine, model: str, name: str) -> int | None:
    """The version of that name, or of that number as text; raises DatabaseUnavailable."""
    with _asking(engine) as connection:
        return find_numbered(name, load_version_names(connection, model))


@contextmanager
def _asking(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        raise DatabaseUnavailable(engine.url.render_as_string(), str(error.orig).splitlines()[0]) from error
    except TimeoutError as error:
        raise DatabaseUnavailable(engine.url.render_as_string(), "all connections are in use") from error


def _read_contracts(documents: Mapping[str, object]) -> dict[str, Contract]:
    """The declared contracts that this process can read; what serves has a contract of its own anyway."""
    contracts = {}
    for model, document in documents.items():
        try:
            contracts[model] = Contract.model_validate(document)
        except ValidationError as error:
            # Written by another release of the platform: that one model must not keep the others from being followed.
            logger.debug("the declared contract of %s cannot be read: %s", model, error)
    return contracts


def resolve(wanted: Wanted, production: Mapping[str, int] | None) -> dict[str, Resolved]:
    """Every model's version. Models whose target needs the registry are left out while that is away (None)."""
    resolved = {}
    for model, target in wanted.targets.items():
        if target == LATEST:
            resolved[model] = Resolved(target, wanted.latest.get(model))
        elif target != PRODUCTION:
            resolved[model] = Resolved(target, find_numbered(target, wanted.names.get(model, {})))
        elif production is not None:
            resolved[model] = Resolved(target, production.get(model))
    return resolved


def load_last_resolved(folder: Path) -> dict[str, Resolved]:
    """What a process resolved last on this machine; nothing where none did."""
    try:
        stored = orjson.loads((folder / _FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError:
        logger.exception("the targets resolved last cannot be read; serving waits for the registry")
        return {}
    return {model: Resolved(entry["target"], entry["version"]) for model, entry in stored.items()}


def store_last_resolved(folder: Path, resolved: Mapping[str, Resolved]) -> None:
    """Keep what is resolved now."""
    document = {model: {"target": entry.target, "version": entry.version} for model, entry in resolved.items()}
    write_atomically(folder / _FILE, orjson.dumps(document))
