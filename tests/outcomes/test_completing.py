"""What a prediction was asked with and its outcome become a row that trains the next version."""

from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pytest
from sqlalchemy import Engine, select

from core.contract import Contract
from core.evaluations import find_evaluation
from core.predicted_keys import PredictedKey
from core.tables.data import sources
from ingestion.batches import Batch, store_batch
from ingestion.completing import complete_observations, load_models_to_complete
from ingestion.json_rows import JsonRow
from ingestion.outcomes import store_outcomes
from ingestion.store import load_observations
from tests.outcomes.predicting import START, build_series, build_table, declare, hours, load_joined, ship


def send(engine: Engine, contract: Contract, *rows: JsonRow) -> None:
    batch = Batch([orjson.dumps(row) for row in rows], list(rows), kind="rest", name="outcomes", actor="test")
    store_outcomes(engine, contract, batch)


def complete(engine: Engine, contract: Contract) -> int:
    def find_contract(version: int) -> Contract | None:
        with engine.connect() as connection:
            evaluation = find_evaluation(connection, contract.model, version)
        return None if evaluation is None else evaluation.contract

    return complete_observations(engine, contract, find_contract)


def load(engine: Engine, contract: Contract) -> pd.DataFrame:
    with engine.connect() as connection:
        return load_observations(connection, contract)


def test_features_and_outcome_are_a_labelled_row(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_table(model)
    declare(engine, contract, "log_loss")
    # As float32, which is what a model takes.
    inputs = np.array([[float(np.float32(0.1)), 2.0], [3.0, 0.0]])
    keys = [PredictedKey("c1", None), PredictedKey("c2", None)]
    ship(engine, tmp_path, model, np.array([[0.2], [0.8]]), inputs=inputs, keys=keys)
    send(engine, contract, {"car": "c1", "failed": 1}, {"car": "c2", "failed": 0})
    assert contract.model in {one.model for one in load_models_to_complete(engine)}
    # The second was of a colour that the version does not know: its row cannot be told.
    assert complete(engine, contract) == 1
    (row,) = load(engine, contract).to_dict("records")
    assert row == {"car": "c1", "findings": 0.1, "colour": "red", "failed": 1.0}
    assert contract.model not in {one.model for one in load_models_to_complete(engine)}
    with engine.connect() as connection:
        kinds = connection.scalars(select(sources.c.kind).where(sources.c.model == model).order_by(sources.c.kind))
        assert kinds.all() == ["outcome", "rest"]


def test_correction_changes_the_completed_row(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    ship(engine, tmp_path, model, np.array([[1.0], [2.0]]), keys=hours(2))
    row = {"machine": "m1", "at": START.isoformat(), "reading": 5.0}
    send(engine, contract, row)
    assert (complete(engine, contract), complete(engine, contract)) == (1, 0)
    send(engine, contract, row | {"reading": 6.0})
    assert complete(engine, contract) == 1
    assert load(engine, contract)["reading"].tolist() == [6.0]
    assert load_joined(engine, model) == [(1.0, 6.0)]


def test_own_row_stands_over_a_completed_one(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_table(model)
    declare(engine, contract, "log_loss")
    own: JsonRow = {"car": "c1", "findings": 9.0, "colour": "blue", "failed": 0}
    store_batch(engine, contract, Batch([orjson.dumps(own)], [own], kind="rest", name="rows", actor="test"))
    ship(engine, tmp_path, model, np.array([[0.2]]), inputs=np.array([[1.0, 1.0]]), keys=[PredictedKey("c1", None)])
    send(engine, contract, {"car": "c1", "failed": 1})
    assert complete(engine, contract) == 0
    assert load(engine, contract).to_dict("records") == [own]


@pytest.mark.parametrize("kind", ["no key", "no version"])
def test_what_cannot_be_completed_is_looked_at_once(engine: Engine, model: str, tmp_path: Path, kind: str) -> None:
    contract = build_table(model)
    declare(engine, contract, "log_loss")
    keys = None if kind == "no key" else [PredictedKey("c1", None)]
    (prediction_id,) = ship(
        engine, tmp_path, model, np.array([[0.2]]), inputs=np.array([[1.0, 1.0]]), keys=keys, version=7
    )
    send(engine, contract, {"prediction_id": str(prediction_id), "failed": 1})
    assert complete(engine, contract) == 0
    assert contract.model not in {one.model for one in load_models_to_complete(engine)}
