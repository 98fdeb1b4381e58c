"""Outcomes and predictions find each other, whichever comes second, and each once."""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import orjson
import pytest
from sqlalchemy import Engine, select, text

from core.contract import Contract
from core.data_errors import RowsRejected
from core.predicted_keys import PredictedKey
from core.tables.data import rejected_rows
from core.tables.outcomes import joined_outcomes, outcomes
from ingestion.batches import Batch, store_batch
from ingestion.json_rows import JsonRow
from ingestion.outcomes import OutcomesResult, store_outcomes
from serving.records import Entry
from serving.shipping import store_entries
from tests.outcomes.predicting import START, build_series, build_table, declare, hours, load_joined, ship


def send(engine: Engine, contract: Contract, rows: Sequence[JsonRow]) -> OutcomesResult:
    batch = Batch([orjson.dumps(row) for row in rows], list(rows), kind="rest", name="outcomes", actor="test")
    return store_outcomes(engine, contract, batch)


def observe(engine: Engine, contract: Contract, rows: Sequence[JsonRow]) -> None:
    raw = [orjson.dumps(row) for row in rows]
    store_batch(engine, contract, Batch(raw, list(rows), kind="rest", name="rows", actor="test", later_wins=True))


def show(at: datetime) -> str:
    return at.isoformat()


def test_outcome_by_id_joins_its_prediction(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    first, second = ship(engine, tmp_path, model, np.array([[1.0], [2.0]]))
    result = send(engine, contract, [{"prediction_id": str(second), "reading": 2.5}])
    assert (result.outcomes_new, result.outcomes_joined, result.outcomes_waiting) == (1, 1, 0)
    assert load_joined(engine, model) == [(2.0, 2.5)]
    send(engine, contract, [{"prediction_id": str(first), "value": 0.5}])
    assert sorted(load_joined(engine, model)) == [(1.0, 0.5), (2.0, 2.5)]


def test_outcome_by_entity_and_time_joins_every_prediction_of_them(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    ship(engine, tmp_path, model, np.array([[1.0], [2.0]]), keys=hours(2))
    ship(engine, tmp_path, model, np.array([[7.0]]), keys=hours(1))
    ship(engine, tmp_path, model, np.array([[9.0]]), keys=hours(1, "m2"))
    result = send(engine, contract, [{"machine": "m1", "at": show(START), "reading": 1.5}])
    assert (result.outcomes_new, result.outcomes_joined) == (1, 1)
    assert load_joined(engine, model) == [(1.0, 1.5), (7.0, 1.5)]


@pytest.mark.parametrize("is_by_id", [True, False])
def test_outcome_before_its_prediction_waits_and_is_joined_once(
    engine: Engine, model: str, tmp_path: Path, is_by_id: bool
) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    entry_id = uuid4()
    row: JsonRow = {"machine": "m1", "at": show(START), "reading": 3.0}
    if is_by_id:
        row = {"prediction_id": str(entry_id), "reading": 3.0}
    result = send(engine, contract, [row])
    assert (result.outcomes_joined, result.outcomes_waiting) == (0, 1)
    assert load_joined(engine, model) == []
    _ship_with_id(engine, tmp_path, model, entry_id)
    assert load_joined(engine, model) == [(2.0, 3.0)]
    # The crash after the commit: the same record is offered again.
    _ship_with_id(engine, tmp_path, model, entry_id)
    assert load_joined(engine, model) == [(2.0, 3.0)]
    with engine.connect() as connection:
        assert connection.scalars(select(outcomes.c.is_joined).where(outcomes.c.model == model)).all() == [True]


def _ship_with_id(engine: Engine, folder: Path, model: str, entry_id: UUID) -> None:
    with engine.begin() as connection:
        store_entries(connection, [build_entry(model, entry_id)], folder)


def build_entry(model: str, entry_id: UUID) -> Entry:
    return Entry(
        at_us=1_767_600_000_000_000,
        model=model,
        version=1,
        request_id="r",
        ids=[entry_id],
        inputs=np.ones((1, 4)),
        monitored=np.zeros((1, 0)),
        outputs=np.array([[2.0]]),
        keys=list(hours(1)),
    )


def test_outcome_that_meets_a_prediction_on_its_way_in_waits_and_is_joined(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    entry_id = uuid4()
    sending = threading.Thread(
        target=send, args=(engine, contract, [{"prediction_id": str(entry_id), "reading": 3.0}]), daemon=True
    )
    with engine.connect() as connection:
        store_entries(connection, [build_entry(model, entry_id)], tmp_path)
        sending.start()
        sending.join(1.0)
        assert sending.is_alive()
        connection.commit()
    sending.join(60.0)
    assert load_joined(engine, model) == [(2.0, 3.0)]


def test_duplicate_changes_nothing_and_a_correction_replaces_visibly(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    (prediction_id,) = ship(engine, tmp_path, model, np.array([[2.0]]))
    row = {"prediction_id": str(prediction_id), "reading": 2.5}
    send(engine, contract, [row])
    again = send(engine, contract, [row])
    assert (again.outcomes_new, again.outcomes_unchanged, again.outcomes_corrected) == (0, 1, 0)
    corrected = send(engine, contract, [row | {"reading": 4.0}])
    assert (corrected.outcomes_new, corrected.outcomes_corrected, corrected.outcomes_joined) == (0, 1, 1)
    assert load_joined(engine, model) == [(2.0, 4.0)]
    with engine.connect() as connection:
        kept = connection.execute(
            select(outcomes.c.value, outcomes.c.replaced_at.is_not(None))
            .where(outcomes.c.model == model)
            .order_by(outcomes.c.id)
        ).all()
    assert [tuple(row) for row in kept] == [(2.5, True), (4.0, False)]


def test_last_of_two_in_one_input_stands(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    ship(engine, tmp_path, model, np.array([[2.0]]), keys=hours(1))
    key = {"machine": "m1", "at": show(START)}
    result = send(engine, contract, [key | {"reading": 1.0}, key | {"reading": 5.0}])
    assert (result.outcomes_new, result.outcomes_repeated) == (1, 1)
    assert load_joined(engine, model) == [(2.0, 5.0)]


def test_bad_rows_are_rejected_alone_with_their_reasons(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    ship(engine, tmp_path, model, np.array([[2.0]]), keys=hours(1))
    rows: list[JsonRow] = [
        {"machine": "m1", "at": show(START), "reading": 2.0},
        {"machine": "m1", "at": show(START), "reading": 2000.0},
        {"machine": "m1", "reading": 2.0},
        {"prediction_id": "no id", "reading": 2.0},
        {"prediction_id": str(uuid4())},
        {"machine": "m1", "at": "2999-01-01T00:00:00Z", "reading": 1.0},
    ]
    result = send(engine, contract, rows)
    assert (result.outcomes_new, result.outcomes_rejected) == (1, 5)
    with engine.connect() as connection:
        query = select(rejected_rows.c.line, rejected_rows.c.column).where(rejected_rows.c.model == model)
        kept = [tuple(row) for row in connection.execute(query.order_by(rejected_rows.c.line))]
    assert kept == [(2, "reading"), (3, "at"), (4, "prediction_id"), (5, "reading"), (6, "at")]


def test_every_step_ahead_has_its_own_outcome(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model, horizon=3)
    declare(engine, contract, "mae")
    (prediction_id,) = ship(engine, tmp_path, model, np.array([[1.0, 2.0, 3.0]]), keys=hours(1))
    ship(engine, tmp_path, model, np.array([[10.0, 20.0, 30.0]]), keys=hours(1, first=1))
    row = {"machine": "m1", "at": show(START + timedelta(hours=1)), "reading": 5.0}
    send(engine, contract, [row, {"prediction_id": str(prediction_id), "step": 3, "reading": 6.0}])
    assert sorted(load_joined(engine, model)) == [(2.0, 5.0), (3.0, 6.0), (10.0, 5.0)]
    with pytest.raises(RowsRejected, match="at most 3"):
        raise_if_none(send(engine, contract, [{"prediction_id": str(prediction_id), "step": 4, "reading": 6.0}]), model)


def raise_if_none(result: OutcomesResult, model: str) -> None:
    if not result.outcomes_accepted:
        raise RowsRejected(model, "rows", [fault.to_fault() for fault in result.rejected], len(result.rejected))


def test_classes_are_checked_and_their_probability_is_kept(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_table(model, "multiclass", ("fine", "worn", "broken"))
    declare(engine, contract, "brier")
    ship(engine, tmp_path, model, np.array([[0.5, 0.3, 0.2]]), keys=[PredictedKey("c1", None)])
    result = send(engine, contract, [{"car": "c1", "failed": "lost"}, {"car": "c1", "failed": "worn"}])
    assert (result.outcomes_new, result.outcomes_rejected) == (1, 1)
    assert "one of the classes" in result.rejected[0].rule
    with engine.connect() as connection:
        row = connection.execute(select(joined_outcomes).where(joined_outcomes.c.model == model)).one()
    assert row.predicted == pytest.approx(0.3)
    assert row.value == 1.0
    assert row.squared == pytest.approx(0.25 + 0.49 + 0.04)


@pytest.mark.parametrize("is_prediction_first", [True, False])
def test_observations_are_outcomes_of_what_was_predicted_under_their_key(
    engine: Engine, model: str, tmp_path: Path, is_prediction_first: bool
) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    rows = [
        {"machine": machine, "at": show(START + timedelta(hours=hour)), "reading": 10.0 * hour}
        for machine in ("m1", "m2")
        for hour in range(3)
    ]
    if not is_prediction_first:
        observe(engine, contract, rows)
    inputs = np.array([[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 6.0]])
    ship(engine, tmp_path, model, np.array([[1.0], [2.0]]), inputs=inputs, keys=hours(2, "m2", first=1))
    if is_prediction_first:
        observe(engine, contract, rows)
    assert load_joined(engine, model) == [(1.0, 10.0), (2.0, 20.0)]
    observe(engine, contract, [rows[4] | {"reading": 11.0}])
    assert load_joined(engine, model) == [(1.0, 11.0), (2.0, 20.0)]
    with engine.connect() as connection:
        query = select(joined_outcomes.c.baseline).where(joined_outcomes.c.model == model)
        assert connection.scalars(query.order_by(joined_outcomes.c.outcome_at)).all() == [4.0, 6.0]


def test_observations_under_an_id_are_outcomes_too(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_table(model)
    declare(engine, contract, "log_loss")
    ship(engine, tmp_path, model, np.array([[0.25]]), keys=[PredictedKey("c1", None)])
    cars = [{"car": f"c{n}", "findings": 1.0, "colour": "red", "failed": n % 2} for n in range(4)]
    observe(engine, contract, cars)
    assert load_joined(engine, model) == [(0.25, 1.0)]
    ship(engine, tmp_path, model, np.array([[0.75]]), keys=[PredictedKey("c2", None)])
    assert sorted(load_joined(engine, model)) == [(0.25, 0.0), (0.25, 1.0)]


def test_many_outcomes_meet_as_many_predictions(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    ids: list[UUID] = []
    for _ in range(2):
        ids += ship(engine, tmp_path, model, np.ones((5_000, 1)))
    for first in range(0, len(ids), 5_000):
        rows = [{"prediction_id": str(one), "reading": 2.0} for one in ids[first : first + 5_000]]
        assert send(engine, contract, rows).outcomes_joined == 5_000
    with engine.connect() as connection:
        query = text("SELECT count(*), sum(abs(predicted - value)) FROM joined_outcomes WHERE model = :model")
        assert tuple(connection.execute(query, {"model": model}).one()) == (10_000, 10_000.0)
