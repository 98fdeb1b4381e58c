"""Kind `tabular`: codes, parts that stay what they are, and nothing learnt outside the training part."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression

from core.contract import Column, Contract, Key, build_contract
from core.data_errors import SnapshotRejected
from core.errors import DeclarationRejected
from training.kinds import get_kind
from training.parts import Parts, Seen, find_unseen, hash_keys
from training.tabular import LINEAR, LOGISTIC, MEAN, PRIOR
from workloads.declaration import SplitPolicy

POLICY = SplitPolicy(validation_share=0.2, holdout_share=0.2)
ROWS = 400
Columns = dict[str, NDArray[np.generic]]

COLUMNS = (
    Column(name="id", dtype="text"),
    Column(name="at", dtype="time"),
    Column(name="colour", dtype="text", is_nullable=True),
    Column(name="is_new", dtype="boolean"),
    Column(name="size", dtype="float"),
    Column(name="weight", dtype="float", is_nullable=True, imputation="median"),
    Column(name="price", dtype="float"),
    Column(name="label", dtype="integer"),
    Column(name="grade", dtype="text"),
)


def build(**changed: object) -> Contract:
    fields: dict[str, object] = {
        "description": "things",
        "kind": "tabular",
        "columns": COLUMNS,
        "key": Key(id="id"),
        "target": "price",
        "features": ("colour", "is_new", "size", "weight"),
    }
    return build_contract("things", **{**fields, **changed})


def draw(rows: int = ROWS) -> Columns:
    generator = np.random.default_rng(3)
    colour = generator.choice(["red", "green", "blue"], rows).astype(object)
    colour[::17] = None
    size, weight = generator.normal(10, 2, rows), generator.normal(5, 1, rows)
    weight[::13] = np.nan
    is_new = generator.random(rows) < 0.5
    price = 3.0 * size + 5.0 * (colour == "red") + 2.0 * is_new + generator.normal(0, 0.1, rows)
    return {
        "id": np.array([f"t{row}" for row in range(rows)], dtype=object),
        "at": np.datetime64("2026-01-01", "us") + np.arange(rows) // 4 * np.timedelta64(1, "D"),
        "colour": colour,
        "is_new": is_new,
        "size": size,
        "weight": weight,
        "price": price,
        "label": (price > 35.0).astype(np.int64),
        "grade": np.where(price > 38.0, "a", np.where(price > 30.0, "b", "c")).astype(object),
    }


def cut(contract: Contract, columns: Columns, policy: SplitPolicy = POLICY) -> tuple[Contract, Parts]:
    kind = get_kind(contract)
    learnt = kind.learn_contract(contract, columns, policy)
    return learnt, kind.split_columns(learnt, columns, policy)


def list_keys(parts: Parts) -> list[set[str]]:
    return [set(part.keys.tolist()) for part in (parts.train, parts.validation, parts.holdout)]


# --- inputs ------------------------------------------------------------------------------------------------------


def test_text_becomes_its_code_and_absent_numbers_stay_absent() -> None:
    columns = draw()
    contract, parts = cut(build(), columns)
    assert contract.vocabularies == {"colour": ("blue", "green", "red")}
    rows = {key: place for place, key in enumerate(columns["id"].tolist())}
    for key, row in zip(parts.holdout.keys.tolist(), parts.holdout.inputs, strict=True):
        place = rows[key]
        colour = columns["colour"][place]
        assert row[0] == (0 if colour is None else ("blue", "green", "red").index(str(colour)) + 1)
        assert row[1] == columns["is_new"][place]
        np.testing.assert_equal(row[2:], np.array([columns["size"][place], columns["weight"][place]], dtype=np.float32))


@pytest.mark.parametrize("key", [Key(id="id"), Key(time="at")], ids=["by hash", "by time"])
def test_a_category_that_the_training_part_lacks_is_unknown(key: Key) -> None:
    columns = draw()
    if key.time:
        columns["at"] = np.datetime64("2026-01-01", "us") + np.arange(ROWS) * np.timedelta64(1, "D")
    contract = build(key=key)
    _, parts = cut(contract, columns)
    keys = get_kind(contract).build_part(contract, columns).keys
    is_later = np.isin(keys, parts.holdout.keys) | np.isin(keys, parts.validation.keys)
    columns["colour"][is_later] = "violet"
    learnt, again = cut(contract, columns)
    assert "violet" not in learnt.vocabularies["colour"]
    assert (again.holdout.inputs[:, 0] == 0).all()


def test_nothing_is_learnt_from_outside_the_training_part() -> None:
    columns = draw()
    contract, parts = cut(build(), columns)
    is_train = np.isin(columns["id"].astype(str), parts.train.keys)
    prices = columns["price"].astype(np.float64)
    assert contract.target_mean == pytest.approx(prices[is_train].mean())
    assert contract.target_deviation == pytest.approx(prices[is_train].std())
    columns["price"] = np.where(is_train, prices, 1e9)
    assert cut(build(), columns)[0] == contract


def test_a_class_that_is_not_declared_is_refused_by_name() -> None:
    columns = draw()
    columns["grade"][5] = "z"
    with pytest.raises(SnapshotRejected, match="'grade' has the value 'z', which is none of its classes a, b, c"):
        cut(build(target="grade", task="multiclass", classes=("a", "b", "c")), columns)


# --- parts -------------------------------------------------------------------------------------------------------


def test_rows_without_time_stay_in_their_part_whatever_is_added_or_taken_away() -> None:
    columns = draw()
    many = list_keys(cut(build(), columns)[1])
    chosen = np.random.default_rng(5).permutation(ROWS)[: ROWS // 2]
    few = list_keys(cut(build(), {name: values[chosen] for name, values in columns.items()})[1])
    for whole, part in zip(many, few, strict=True):
        assert part == whole & (few[0] | few[1] | few[2])
    assert sum(map(len, many)) == ROWS


def test_shares_of_parts_by_hash_are_those_of_the_policy() -> None:
    sizes = [len(keys) / 4000 for keys in list_keys(cut(build(), draw(4000))[1])]
    assert sizes == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_rows_with_a_time_are_cut_by_it_and_a_time_is_never_torn_apart() -> None:
    columns = draw()
    columns["id"] = np.array([f"t{row % 4}" for row in range(ROWS)], dtype=object)
    _, parts = cut(build(key=Key(entity="id", time="at")), columns)
    times = [part.times for part in (parts.train, parts.validation, parts.holdout)]
    assert times[0] is not None and times[1] is not None and times[2] is not None
    assert times[0].max() < times[1].min()
    assert times[1].max() < times[2].min()
    assert [part.rows for part in (parts.train, parts.validation, parts.holdout)] == [240, 80, 80]


def test_rows_without_any_key_are_named_by_their_values() -> None:
    columns = draw()
    contract = build(key=Key())
    keys = get_kind(contract).build_part(contract, columns).keys
    assert len(set(keys.tolist())) == ROWS
    order = np.random.default_rng(1).permutation(ROWS)
    mixed = {name: values[order] for name, values in columns.items()}
    assert (get_kind(contract).build_part(contract, mixed).keys == keys[order]).all()


def test_hold_out_by_hash_is_what_neither_of_two_versions_has_looked_at() -> None:
    columns = draw()
    _, parts = cut(build(), columns)
    assert find_unseen(parts.holdout, Seen(None, 0.2)).all()
    assert not find_unseen(parts.train, Seen(None, 0.2)).any()
    # An earlier version held less out.
    common = find_unseen(parts.holdout, Seen(None, 0.2).join(Seen(None, 0.1)))
    assert (common == (hash_keys(parts.holdout.keys) < 0.1)).all()


def test_a_part_without_rows_is_refused_with_what_there_is() -> None:
    with pytest.raises(SnapshotRejected, match="3 rows are too few"):
        cut(build(), draw(3))


# --- baselines ---------------------------------------------------------------------------------------------------


def test_regression_is_held_against_the_mean_and_a_linear_regression() -> None:
    contract, parts = cut(build(features=("is_new", "size")), draw())
    found = get_kind(contract).predict_baselines(contract, parts.train, parts.holdout)
    assert list(found) == [MEAN, LINEAR]
    assert found[MEAN] == pytest.approx(np.full((parts.holdout.rows, 1), parts.train.targets.mean()))
    expected = LinearRegression().fit(parts.train.inputs, parts.train.targets).predict(parts.holdout.inputs)
    np.testing.assert_allclose(found[LINEAR], expected, rtol=1e-4)


def test_two_classes_are_held_against_their_rate_and_a_logistic_regression() -> None:
    contract, parts = cut(build(target="label", task="binary", features=("size",)), draw())
    found = get_kind(contract).predict_baselines(contract, parts.train, parts.holdout)
    assert list(found) == [PRIOR, LOGISTIC]
    assert found[PRIOR] == pytest.approx(np.full((parts.holdout.rows, 1), parts.train.targets.mean()))
    scale = parts.train.inputs.mean(), parts.train.inputs.std()
    model = LogisticRegression().fit((parts.train.inputs - scale[0]) / scale[1], parts.train.targets[:, 0])
    expected = model.predict_proba((parts.holdout.inputs - scale[0]) / scale[1])[:, 1:]
    np.testing.assert_allclose(found[LOGISTIC], expected, rtol=1e-3)


def test_baselines_of_many_classes_read_categories_and_absent_numbers_and_add_up_to_one() -> None:
    contract, parts = cut(build(target="grade", task="multiclass", classes=("a", "b", "c", "never")), draw())
    found = get_kind(contract).predict_baselines(contract, parts.train, parts.holdout)
    assert list(found) == [PRIOR, LOGISTIC]
    for predictions in found.values():
        assert predictions.shape == (parts.holdout.rows, 4)
        np.testing.assert_allclose(predictions.sum(axis=1), 1.0)
        assert (predictions[:, 3] == 0).all()


def test_column_that_is_absent_throughout_the_training_part_leaves_the_baselines_whole() -> None:
    columns = draw()
    columns["weight"] = np.full(ROWS, np.nan)
    contract, parts = cut(build(), columns)
    found = get_kind(contract).predict_baselines(contract, parts.train, parts.holdout)
    assert np.isfinite(found[LINEAR]).all()


def test_one_class_alone_is_held_against_its_rate() -> None:
    contract, parts = cut(build(target="label", task="binary"), draw())
    train = replace(parts.train, targets=np.zeros_like(parts.train.targets))
    assert list(get_kind(contract).predict_baselines(contract, train, parts.holdout)) == [PRIOR]


# --- declarations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": ("size", "price")}, "the target 'price' is among the features"),
        ({"features": ("size", "at")}, "feature 'at' is time; a tabular takes float, integer, boolean, text"),
        ({"target": "grade"}, "the target 'grade' is text: it needs classes"),
        ({"task": "multiclass"}, "task multiclass needs at least 2 classes"),
        ({"classes": ("a", "b")}, "task regression takes 0 classes, not 2"),
        ({"task": "binary", "classes": ("a", "b", "c")}, "task binary takes 0 or 2 classes, not 3"),
        (
            {"columns": tuple(c.model_copy(update={"imputation": None}) for c in COLUMNS)},
            "feature 'weight' may be absent: declare its imputation",
        ),
    ],
)
def test_declaration_that_contradicts_itself_is_refused_in_its_own_terms(changed: dict[str, object], said: str) -> None:
    with pytest.raises(DeclarationRejected, match=said):
        build(**changed)
