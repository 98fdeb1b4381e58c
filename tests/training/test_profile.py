"""What a version keeps of its training part: features, prediction, absent values, categories."""

from dataclasses import replace

import numpy as np
import pytest

from core.contract import Column, Contract, Key, Monitored, build_contract
from core.features import PREDICTION, build_prediction
from training.parts import Part, Parts
from training.profile import build_profile, find_rows_an_hour, list_quality


def build_table(**fields: object) -> Contract:
    columns = (
        Column(name="id", dtype="text"),
        Column(name="age", dtype="float", is_nullable=True, imputation="mean"),
        Column(name="kind", dtype="text"),
        Column(name="hours", dtype="float", unit="h"),
    )
    given = {
        "description": "a table",
        "kind": "tabular",
        "columns": columns,
        "key": Key(id="id"),
        "target": "hours",
        "features": ("age", "kind"),
        "vocabularies": {"kind": ("a", "b")},
        "monitored": (Monitored(name="kind", column="kind", transform="value"),),
    }
    return build_contract("table", **(given | fields))


def build_part(inputs: list[list[float]]) -> Part:
    rows = np.array(inputs, dtype=np.float32)
    return Part(inputs=rows, targets=np.zeros((len(rows), 1)), keys=np.arange(len(rows)).astype(np.str_))


TRAIN = build_part([[np.nan if row % 10 == 0 else 30.0, 1.0 + row % 2] for row in range(200)])
LATER = build_part([[30.0, 0.0], [np.nan, 1.0], [30.0, 2.0], [30.0, 0.0]])


def test_a_profile_has_categories_the_prediction_and_the_rates_of_faults() -> None:
    outputs = np.random.default_rng(1).normal(5, 2, size=(200, 1))
    reference = build_profile(build_table(), Parts(TRAIN, LATER, LATER), outputs, target_rate=0.04, seed=1)
    assert reference.names == ("kind", PREDICTION)
    kind, prediction = reference.features
    assert (kind.role, kind.statistic) == ("feature", "total_variation")
    assert (prediction.role, prediction.statistic, prediction.unit) == ("prediction", "ks_location_spread", "h")
    assert prediction.mean == pytest.approx(outputs.mean(), rel=1e-5)
    assert reference.has_prediction
    rates = {(rate.column, rate.kind): (rate.position, rate.faulty, rate.rows) for rate in reference.quality}
    # What is absent is counted everywhere, what is unknown where the vocabulary was not learnt.
    assert rates == {("age", "imputed"): (0, 22, 208), ("kind", "unknown"): (1, 4, 8)}


def test_rows_an_hour_are_those_of_the_training_part() -> None:
    assert find_rows_an_hour(TRAIN) is None
    times = np.datetime64("2026-01-01T00:00", "us") + np.arange(200) * np.timedelta64(5, "m")
    assert find_rows_an_hour(replace(TRAIN, times=times)) == pytest.approx(12.0)
    assert find_rows_an_hour(replace(TRAIN, times=np.repeat(times[:1], 200))) is None


def test_a_prediction_is_watched_as_what_it_says() -> None:
    one = np.ones((2, 2), dtype=np.float32)
    assert build_prediction(build_table(), one, np.array([[3.0], [4.0]])).tolist() == [3.0, 4.0]
    many = build_table(
        task="multiclass",
        classes=("x", "y", "z"),
        columns=(*build_table().columns[:3], Column(name="hours", dtype="text")),
    )
    assert build_prediction(many, one, np.array([[0.1, 0.7, 0.2], [0.6, 0.2, 0.2]])).tolist() == [1.0, 0.0]
    prices = build_contract(
        "prices",
        description="a series",
        kind="sequence",
        columns=(Column(name="at", dtype="time"), Column(name="close", dtype="float", minimum=1e-6)),
        key=Key(time="at"),
        target="close",
        features=("close",),
        steps=2,
        monitored=(Monitored(name="r", column="close", transform="last_log_return"),),
    )
    windows = np.array([[[50.0], [100.0]], [[50.0], [100.0]]], dtype=np.float32)
    returns = build_prediction(prices, windows, np.array([[110.0], [-1.0]]))
    assert returns[0] == pytest.approx(np.log(1.1))
    # No price at all is far below every other, and finite.
    assert -100 < returns[1] < -80
    assert list_quality(prices, Parts(TRAIN, LATER, LATER)) == []


def test_the_name_of_the_prediction_is_taken() -> None:
    with pytest.raises(Exception, match="'prediction' is the name under which"):
        build_table(monitored=(Monitored(name=PREDICTION, column="age", transform="value"),))
