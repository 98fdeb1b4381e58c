"""The catalogue: every folder beside this file that has a `workload.py` with a `WORKLOAD`."""

import pkgutil
from collections.abc import Mapping
from importlib import import_module

import workloads
from core.errors import DeclarationRejected, WorkloadNotFound
from workloads.declaration import Workload


def load_catalogue() -> Mapping[str, Workload]:
    """Every declared workload by name; raises DeclarationRejected for one that contradicts itself."""
    found = {}
    for entry in pkgutil.iter_modules(workloads.__path__):
        if entry.ispkg:
            workload = import_module(f"workloads.{entry.name}.workload").WORKLOAD
            if not isinstance(workload, Workload) or workload.name != entry.name:
                raise DeclarationRejected(entry.name, f"WORKLOAD must be a Workload named {entry.name!r}")
            workload.build_contract()
            found[workload.name] = workload
    return found


def get_workload(name: str) -> Workload:
    """The workload of that name; raises WorkloadNotFound."""
    catalogue = load_catalogue()
    if name not in catalogue:
        raise WorkloadNotFound(name, sorted(catalogue))
    return catalogue[name]
