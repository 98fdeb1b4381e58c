"""Codecs of tables: text, booleans, whole numbers and absent values become the numbers that training had."""

import math

import numpy as np
import pytest

from core.codecs import check_inputs, decode_request, decode_row, decode_rows
from core.contract import Column, Contract, Key, Monitored, build_contract
from core.errors import RequestRejected
from core.features import build_monitored

TABLE = Contract(
    model="things",
    description="things",
    kind="tabular",
    columns=(
        Column(name="colour", dtype="text"),
        Column(name="grade", dtype="text", allowed=("a", "b"), is_nullable=True),
        Column(name="is_new", dtype="boolean"),
        Column(name="pieces", dtype="integer", minimum=0, maximum=9),
        Column(name="weight", dtype="float", is_nullable=True, imputation="mean"),
        Column(name="price", dtype="float"),
    ),
    key=Key(),
    target="price",
    features=("colour", "grade", "is_new", "pieces", "weight"),
    vocabularies={"colour": ("green", "red"), "grade": ("a",)},
    monitored=(Monitored(name="colour", column="colour", transform="value"),),
)
ROW: dict[str, object] = {"colour": "red", "grade": "a", "is_new": True, "pieces": 3, "weight": 1.5}


def decode(**changed: object) -> list[float]:
    decoded = decode_row(TABLE, {**ROW, **changed})
    assert decoded.shape == (1, 5)
    assert decoded.dtype == np.float32
    return [float(value) for value in decoded[0]]


def test_a_row_of_every_type_becomes_codes_and_numbers() -> None:
    assert decode() == [2.0, 1.0, 1.0, 3.0, 1.5]
    assert decode(is_new=False, pieces=4.0) == [2.0, 1.0, 0.0, 4.0, 1.5]


def test_text_that_training_has_not_seen_is_code_0_and_text_that_is_not_allowed_is_refused() -> None:
    assert decode(colour="violet")[0] == 0.0
    assert decode(grade="b")[1] == 0.0
    with pytest.raises(RequestRejected, match=r"body\.grade: 'c' is not allowed, one of a, b is expected"):
        decode(grade="c")


def test_an_absent_value_is_taken_where_the_declaration_says_what_it_means() -> None:
    assert decode(grade=None)[1] == 0.0
    assert math.isnan(decode(weight=None)[4])


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("colour", None, "a text is expected"),
        ("colour", 2, "a text is expected"),
        ("is_new", None, "true or false is expected"),
        ("is_new", 1, "true or false is expected"),
        ("pieces", None, "a whole number from 0 to 9 is expected"),
        ("pieces", 1.5, "a whole number from 0 to 9 is expected"),
        ("pieces", 10, "a whole number from 0 to 9 is expected"),
        ("pieces", True, "a whole number from 0 to 9 is expected"),
        ("weight", math.nan, "a finite number is expected"),
        ("weight", "1.5", "a finite number is expected"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place_and_what_is_expected(
    name: str, value: object, rule: str
) -> None:
    with pytest.raises(RequestRejected) as refused:
        decode(**{name: value})
    assert [(fault.where, fault.rule) for fault in refused.value.faults] == [(f"body.{name}", rule)]


def test_values_and_rows_of_our_own_route_take_text_too() -> None:
    assert decode_request(TABLE, {"values": ["red", "a", True, 3, 1.5]}).tolist() == [[2.0, 1.0, 1.0, 3.0, 1.5]]
    assert decode_request(TABLE, {"rows": [ROW, {**ROW, "colour": "green"}]})[:, 0].tolist() == [2.0, 1.0]


def test_codes_that_other_clients_send_are_checked() -> None:
    row = np.array([[2.0, 0.0, 1.0, 3.0, np.nan]], dtype=np.float32)
    check_inputs(TABLE, row)
    for place, value in ((0, 3.0), (0, 0.5), (0, -1.0), (3, np.nan)):
        wrong = row.copy()
        wrong[0, place] = value
        with pytest.raises(RequestRejected, match=rf"inputs\[0\] {TABLE.features[place]}"):
            check_inputs(TABLE, wrong)


def test_codes_of_a_category_are_monitored_as_they_are() -> None:
    inputs = decode_request(TABLE, {"rows": [ROW, {**ROW, "colour": "violet"}]})
    assert build_monitored(TABLE, inputs).tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize(
    ("row", "counted"),
    [
        ({"age": None, "kind": "a", "n": 1}, ("age", "absent")),
        ({"kind": "a", "n": 1}, ("age", "absent")),
        ({"age": "x", "kind": "a", "n": 1}, ("age", "type")),
        ({"age": True, "kind": "a", "n": 1}, ("age", "type")),
        ({"age": 200, "kind": "a", "n": 1}, ("age", "bounds")),
        ({"age": float("inf"), "kind": "a", "n": 1}, ("age", "not_finite")),
        ({"age": 1, "kind": "z", "n": 1}, ("kind", "category")),
        ({"age": 1, "kind": 3, "n": 1}, ("kind", "type")),
        ({"age": 1, "kind": "a", "n": 1.5}, ("n", "type")),
    ],
)
def test_a_refusal_is_counted_by_column_and_kind(row: dict[str, object], counted: tuple[str, str]) -> None:
    contract = build_contract(
        "counted",
        description="columns with every sort of fault",
        kind="tabular",
        columns=(
            Column(name="id", dtype="text"),
            Column(name="age", dtype="float", minimum=0, maximum=100),
            Column(name="kind", dtype="text", allowed=("a", "b")),
            Column(name="n", dtype="integer"),
            Column(name="y", dtype="float"),
        ),
        key=Key(id="id"),
        target="y",
        features=("age", "kind", "n"),
        vocabularies={"kind": ("a", "b")},
    )
    with pytest.raises(RequestRejected) as refused:
        decode_rows(contract, [row, row])
    assert refused.value.counted == (counted,)
    # A problem document stays what clients know.
    errors = refused.value.facts()["errors"]
    assert isinstance(errors, list)
    assert set(errors[0]) == {"where", "value", "rule"}
