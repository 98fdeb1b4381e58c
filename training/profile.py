"""The reference of a version: what its training part, and its own answers to that, looked like."""

import numpy as np
from numpy.typing import NDArray

from core.calibration import measure_dependence
from core.contract import Contract
from core.features import (
    PREDICTION,
    build_monitored,
    build_prediction,
    is_watched_as_return,
    list_category_columns,
)
from core.reference import QualityRate, Reference, build_reference
from training.parts import Part, Parts

_HOUR = np.timedelta64(1, "h")


def build_profile(
    contract: Contract, parts: Parts, outputs: NDArray[np.floating], *, target_rate: float, seed: int
) -> Reference:
    """The reference of a model that answers the training part with `outputs (rows, outputs)`.

    Answers to the training part and not to the hold-out: what is compared is the distribution of answers, which follows
    that of the inputs, and the training part has the more of them.
    """
    inputs = parts.train.inputs
    values = np.column_stack([build_monitored(contract, inputs), build_prediction(contract, inputs, outputs)])
    target = contract.column(contract.target)
    is_value = contract.task == "regression" and contract.ranking is None and not is_watched_as_return(contract)
    return build_reference(
        values,
        [*(monitored.name for monitored in contract.monitored), PREDICTION],
        [*(monitored.unit for monitored in contract.monitored), target.unit if is_value else ""],
        target_rate=target_rate,
        seed=seed,
        categories=list_category_columns(contract),
        predictions=(PREDICTION,),
        quality=list_quality(contract, parts),
        rows_an_hour=find_rows_an_hour(parts.train),
    )


def list_quality(contract: Contract, parts: Parts) -> list[QualityRate]:
    """How often a number of a tabular row is absent, and a category unknown.

    Absent numbers are counted in all parts. Unknown categories are counted in validation and hold-out alone: the
    training part is where the vocabulary comes from, and knows all of its own.
    """
    if contract.kind != "tabular":
        return []
    later = np.concatenate([parts.validation.inputs, parts.holdout.inputs])
    every = np.concatenate([parts.train.inputs, later])
    rates = []
    for position, name in enumerate(contract.features):
        column = contract.column(name)
        if column.imputation is not None:
            rates.append(_measure_rate(name, "imputed", position, np.isnan(every[:, position])))
        elif column.dtype == "text":
            rates.append(_measure_rate(name, "unknown", position, later[:, position] == 0))
    return rates


def _measure_rate(column: str, kind: str, position: int, is_faulty: NDArray[np.bool_]) -> QualityRate:
    return QualityRate.model_validate(
        {
            "column": column,
            "kind": kind,
            "position": position,
            "faulty": int(is_faulty.sum()),
            "rows": len(is_faulty),
            "dependence": measure_dependence(is_faulty.astype(np.float64)),
        }
    )


def find_rows_an_hour(part: Part) -> float | None:
    """How many rows came in an hour from the first to the last; None where rows have no time, or all have one."""
    if part.times is None or part.times.min() == part.times.max():
        return None
    return float((part.rows - 1) / ((part.times.max() - part.times.min()) / _HOUR))
