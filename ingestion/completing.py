"""Feedback: what a prediction was asked with and its outcome, together, are an observation, and train the next version.

Only rows under a key, and only where nothing else brought a row under it: what was predicted with is what was known
then, and an own row knows better. A correction of the outcome changes the completed row.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
import orjson
from sqlalchemy import Engine, text

from core.contract import Contract
from core.contracts import load_contract
from ingestion.batches import Batch, store_batch

logger = logging.getLogger(__name__)

ACTOR = "platform"
NAME = "outcomes"
_BATCH_ROWS = 5_000

FindContract = Callable[[int], Contract | None]
"""The contract of a version by its number; None where it is not known any more."""


@dataclass(frozen=True)
class _Pair:
    """A step of a prediction with its outcome; `inputs` are none where the prediction is past its retention."""

    prediction_id: UUID
    step: int
    version: int
    outcome_at: datetime
    value: float
    entity: str | None
    inputs: Sequence[float] | None


def complete_observations(engine: Engine, contract: Contract, find_contract: FindContract) -> int:
    """Store what outcomes have completed since the last time; how many rows were new or changed.

    A kill in between leaves the rest for the next time, and a row that was stored already is unchanged by it.
    """
    stored = 0
    while pairs := _load_pairs(engine, contract.model):
        rows = [row for pair in pairs if (row := _build_row(contract, find_contract(pair.version), pair)) is not None]
        if rows:
            raw = [orjson.dumps(row) for row in rows]
            batch = Batch(raw, rows, kind="outcome", name=NAME, actor=ACTOR, later_wins=True, is_completed=True)
            result = store_batch(engine, contract, batch)
            stored += result.rows_new + result.rows_changed
        if len(rows) < len(pairs):
            logger.info("outcomes complete no row", extra={"model": contract.model, "count": len(pairs) - len(rows)})
        _close_pairs(engine, pairs)
    return stored


def load_models_to_complete(engine: Engine) -> list[Contract]:
    """The contracts of the models with outcomes that were not looked at yet."""
    with engine.connect() as connection:
        query = text(
            "SELECT model FROM workloads WHERE EXISTS"
            " (SELECT FROM joined_outcomes AS joined WHERE joined.model = workloads.model AND is_to_complete)"
        )
        return [load_contract(connection, model) for model in connection.scalars(query).all()]


def _load_pairs(engine: Engine, model: str) -> list[_Pair]:
    query = text(
        "SELECT joined.prediction_id, joined.step, joined.version, joined.outcome_at, joined.value,"
        "  prediction.entity, prediction.inputs"
        " FROM joined_outcomes AS joined LEFT JOIN predictions AS prediction"
        "  ON prediction.at = joined.predicted_at AND prediction.id = joined.prediction_id"
        " WHERE joined.model = :model AND joined.is_to_complete ORDER BY joined.joined_at, joined.prediction_id"
        " LIMIT :rows"
    )
    with engine.connect() as connection:
        return [_Pair(*row) for row in connection.execute(query, {"model": model, "rows": _BATCH_ROWS})]


def _close_pairs(engine: Engine, pairs: Sequence[_Pair]) -> None:
    """Note that these were looked at; one that was corrected meanwhile stays for the next time."""
    statement = text(
        "UPDATE joined_outcomes AS joined SET is_to_complete = false"
        " FROM unnest(CAST(:ids AS uuid[]), CAST(:steps AS smallint[]), CAST(:values AS double precision[]))"
        "  AS seen (prediction_id, step, value)"
        " WHERE joined.prediction_id = seen.prediction_id AND joined.step = seen.step AND joined.value = seen.value"
    )
    values = {
        "ids": [pair.prediction_id for pair in pairs],
        "steps": [pair.step for pair in pairs],
        "values": [pair.value for pair in pairs],
    }
    with engine.begin() as connection:
        connection.execute(statement, values)


def _build_row(contract: Contract, own: Contract | None, pair: _Pair) -> dict[str, object] | None:
    """The row in the contract's columns; None where one of them cannot be known. `own` is the version's contract."""
    if pair.entity is None or pair.inputs is None:
        return None
    key = contract.key
    row: dict[str, object] = {}
    name = key.id if key.time is None else key.entity
    if name is not None:
        row[name] = pair.entity
    if key.time is not None:
        row[key.time] = pair.outcome_at.isoformat()
    row[contract.target] = _show_value(contract, contract.target, pair.value)
    if contract.kind == "tabular":
        if own is None:
            return None
        for place, feature in enumerate(own.features):
            if feature not in row:
                known = _read_feature(own, feature, pair.inputs[place])
                if known is not None:
                    row[feature] = known
    needed = {column.name for column in contract.columns if not column.is_nullable and column.default is None}
    return row if needed <= row.keys() else None


def _read_feature(own: Contract, name: str, value: float) -> object:
    """A feature as its row had it; None for what was absent, and for a category that the version does not know."""
    if own.column(name).dtype == "text":
        return own.vocabularies[name][int(value) - 1] if value > 0 else None
    return None if np.isnan(value) else _show_value(own, name, float(str(np.float32(value))))


def _show_value(contract: Contract, name: str, value: float) -> object:
    if name == contract.target and contract.classes:
        return contract.classes[int(value)]
    dtype = contract.column(name).dtype
    if dtype == "boolean":
        return bool(value)
    return int(value) if dtype == "integer" else value
