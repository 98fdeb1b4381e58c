"""The catalogue: every folder beside this file that has a `workload.py` with a `WORKLOAD`."""

import pkgutil
from collections.abc import Mapping
from importlib import import_module, invalidate_caches

from pydantic import ValidationError

import workloads
from core.contract import word_error
from core.errors import DeclarationRejected, WorkloadNotFound
from workloads.declaration import Workload


def list_names() -> list[str]:
    """Names of the catalogue's workloads, sorted."""
    invalidate_caches()
    return sorted(entry.name for entry in pkgutil.iter_modules(workloads.__path__) if entry.ispkg)


def load_catalogue() -> Mapping[str, Workload]:
    """Every declared workload by name; raises DeclarationRejected for one that contradicts itself."""
    return {name: _load(name) for name in list_names()}


def get_workload(name: str) -> Workload:
    """The workload of that name; raises WorkloadNotFound, and DeclarationRejected where it contradicts itself."""
    names = list_names()
    if name not in names:
        raise WorkloadNotFound(name, names)
    return _load(name)


def _load(name: str) -> Workload:
    try:
        workload = getattr(import_module(f"workloads.{name}.workload"), "WORKLOAD", None)
    except ValidationError as error:
        raise DeclarationRejected(name, f"{error.title}: {word_error(error)}") from error
    except (SyntaxError, NameError, AttributeError, TypeError, ValueError, ImportError) as error:
        raise DeclarationRejected(name, f"workload.py cannot be read: {error}") from error
    if not isinstance(workload, Workload) or workload.name != name:
        raise DeclarationRejected(name, f"WORKLOAD must be a Workload named {name!r}")
    workload.build_contract()
    return workload
