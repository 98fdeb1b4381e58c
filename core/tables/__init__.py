"""The platform's tables (SQLAlchemy Core), one module a subject. Typed observation tables are made from contracts by
`ingestion.store`.

Times are UTC. `model` is always the workload's name; `version` the registry's number.
"""

# Foreign keys name tables of other modules: whoever loads one table has them all.
from core.tables import accounts, audit, data, monitoring, outcomes, predictions, trainings, versions

__all__ = ["accounts", "audit", "data", "monitoring", "outcomes", "predictions", "trainings", "versions"]
