"""A check as a job: the workload's policy applied to its model."""

from core.connections import Connections
from core.findings import Finding
from monitoring.checking import check_model
from workloads.declaration import Workload


def run_check(connections: Connections, workload: Workload, *, actor: str = "platform") -> Finding:
    """Check the workload's Production version; returns the finding. Raises NoProductionVersion."""
    return check_model(connections, workload.name, workload.drift, actor=actor)
