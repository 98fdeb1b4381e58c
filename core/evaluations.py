"""What a version's own evaluation promises of its predictions, kept where realised errors are compared with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from core.contract import Contract
from core.tables.versions import evaluations

TARGET_MEANS = "target_means"
"""Member of a version's `evaluation.json`: the means of the training part's targets, one an output."""


@dataclass(frozen=True)
class Evaluation:
    """A version's error on its hold-out in the gate's metric, its interval and the first baseline's error there.

    `target_means` `(outputs,)` are what the baseline of a table predicts for every row; None where the version was
    trained before they were kept. `contract` is the version's own.
    """

    model: str
    version: int
    metric: str
    confidence: float
    error: float
    lower: float | None
    upper: float | None
    baseline_name: str
    baseline_error: float | None
    target_means: tuple[float, ...] | None
    contract: Contract


def build_evaluation(version: int, document: Mapping[str, Any], contract: Contract) -> Evaluation | None:
    """From a version's `evaluation.json`; None where that has no scorecard with the gate's metric in it."""
    metric, measured = str(document.get("metric")), document.get("model", {})
    if metric not in measured:
        return None
    lower, upper = document["intervals"].get(metric, (None, None))
    baseline = document["improvement"]["baseline"]
    means = document.get(TARGET_MEANS)
    return Evaluation(
        model=contract.model,
        version=version,
        metric=metric,
        confidence=document["confidence"],
        error=measured[metric],
        lower=lower,
        upper=upper,
        baseline_name=baseline,
        baseline_error=document["baselines"][baseline].get(metric),
        target_means=None if means is None else tuple(means),
        contract=contract,
    )


def store_evaluation(connection: Connection, evaluation: Evaluation) -> None:
    """Store it, over that of a version which had the number and was deleted."""
    values = {name: getattr(evaluation, name) for name in Evaluation.__dataclass_fields__}
    values["contract"] = evaluation.contract.model_dump(mode="json")
    values["target_means"] = None if evaluation.target_means is None else list(evaluation.target_means)
    statement = insert(evaluations).values(values)
    connection.execute(statement.on_conflict_do_update(constraint=evaluations.primary_key, set_=values))


def find_evaluation(connection: Connection, model: str, version: int) -> Evaluation | None:
    """The version's evaluation; None where it is not kept."""
    row = connection.execute(
        select(evaluations).where(evaluations.c.model == model, evaluations.c.version == version)
    ).first()
    if row is None:
        return None
    values = dict(row._mapping)
    means = values["target_means"]
    values["target_means"] = None if means is None else tuple(means)
    values["contract"] = Contract.model_validate(values["contract"])
    return Evaluation(**values)
