"""Workload `books`: what its events' key is, and that nothing of the model grows with the square of the items."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from core.interactions import load_history
from ingestion.importing import import_file
from ingestion.store import count_observations
from tests.training.interactions import read_interactions
from training.fit import fit_model, predict
from training.kinds import get_kind
from training.ranking import POPULARITY
from workloads.catalogue import get_workload

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

WORKLOAD = get_workload("books")
HEADING = "user_id,book_id,rating,event_id,rated_at\n"


def bring(engine: Engine, folder: Path, *lines: str) -> None:
    path = folder / "events.csv"
    path.write_text(HEADING + "".join(f"{line}\n" for line in lines))
    contract = WORKLOAD.build_contract().model_copy(update={"model": f"books_{folder.name[-24:].replace('-', '_')}"})
    import_file(engine, contract, path, name=path.name, actor="tests")


def count(engine: Engine, folder: Path) -> int:
    with engine.connect() as connection:
        return count_observations(connection, f"books_{folder.name[-24:].replace('-', '_')}")


def test_the_same_event_twice_is_one_and_another_rating_of_the_book_another(engine: Engine, tmp_path: Path) -> None:
    bring(engine, tmp_path, "1,2,5,,")
    bring(engine, tmp_path, "1,2,5,,")
    assert count(engine, tmp_path) == 1
    bring(engine, tmp_path, "1,2,3,,")
    assert count(engine, tmp_path) == 2
    bring(engine, tmp_path, "1,2,5,e7,", "1,2,5,,2024-01-31T12:00:00Z")
    assert count(engine, tmp_path) == 4
    bring(engine, tmp_path, "1,2,5,e7,")
    assert count(engine, tmp_path) == 4


def test_history_of_a_user_is_in_order_of_time_and_only_that_users(engine: Engine, tmp_path: Path) -> None:
    bring(engine, tmp_path, "1,2,5,,2024-02-01", "1,3,1,,2024-01-01", "1,4,4,,", "2,9,5,,2024-01-01")
    contract = WORKLOAD.build_contract().model_copy(update={"model": f"books_{tmp_path.name[-24:].replace('-', '_')}"})
    with engine.connect() as connection:
        assert load_history(connection, contract, 1) == [(4, 4.0), (3, 1.0), (2, 5.0)]
        assert load_history(connection, contract, 3) == []


def test_history_before_any_row_was_taken_in_is_empty(engine: Engine) -> None:
    contract = WORKLOAD.build_contract().model_copy(update={"model": "books_never"})
    with engine.connect() as connection:
        assert load_history(connection, contract, 1) == []


def test_model_beats_popularity_on_the_sample_and_holds_no_matrix_of_items_by_items(tmp_path: Path) -> None:
    path = tmp_path / "books.csv"
    WORKLOAD.load_function("sample")(path)
    columns = read_interactions(path)
    parameters = WORKLOAD.resolve_parameters({"max_epochs": 2})
    declared = WORKLOAD.build_contract(parameters)
    kind = get_kind(declared)
    contract = kind.learn_contract(declared, columns, WORKLOAD.split)
    parts = kind.split_columns(contract, columns, WORKLOAD.split)
    fitted = fit_model(WORKLOAD, contract, parameters, parts.train, parts.validation)
    answers = predict(fitted.model, parts.holdout.inputs)
    assert kind.check_predictions(contract, parts.holdout.targets, answers).has_passed
    model = kind.measure(contract, parts.holdout.targets, answers)
    popular = kind.predict_baselines(contract, parts.train, parts.holdout)[POPULARITY]
    assert model["ndcg_at_10"] > 1.5 * kind.measure(contract, parts.holdout.targets, popular)["ndcg_at_10"]
    items = len(contract.vocabularies["book_id"])
    assert max(int(np.prod(weight.shape)) for weight in fitted.model.weights) < items**2 / 4
