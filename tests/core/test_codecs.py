"""Codecs: any JSON becomes either the float32 input that it says, or RequestRejected; never anything else."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.codecs import MAX_ROWS, check_inputs, decode_request, decode_rows, decode_values
from core.contract import Contract
from core.errors import RequestRejected
from tests.core.contracts import build_pair_series, build_series, build_table

SERIES, PAIRS, TABLE = build_series(), build_pair_series(), build_table()
CONTRACTS = pytest.mark.parametrize("contract", [SERIES, PAIRS, TABLE], ids=lambda contract: contract.model)

in_bounds = st.floats(min_value=0.5, max_value=1000.0) | st.integers(min_value=1, max_value=1000)
windows = st.lists(in_bounds, min_size=3, max_size=3)

LARGEST = float(np.finfo(np.float32).max)
NOT_NUMBERS = [None, True, False, "1", "", [], [1.0], {}, {"close": 1.0}, b"1", 1j, object()]
NOT_FINITE = [math.nan, math.inf, -math.inf, 1e39, -1e39, 1e308, 10**39, -(10**400), 10**5000]

numbers = st.floats() | st.integers() | st.integers(min_value=-(10**400), max_value=10**400)
rubbish = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["values", "rows", "close", "heat", "load", "width", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def faults_of(decode: Callable[[Contract, object], object], contract: Contract, body: object) -> list[str]:
    with pytest.raises(RequestRejected) as refused:
        decode(contract, body)
    assert refused.value.faults
    return [fault.where for fault in refused.value.faults]


# --- what is right ---------------------------------------------------------------------------------------------------


@given(windows)
def test_numbers_in_bounds_are_decoded_to_their_float32(values: list[float]) -> None:
    decoded = decode_values(SERIES, values)

    assert decoded.dtype == np.float32
    assert decoded.shape == (1, 3, 1)
    assert decoded.ravel().tolist() == [float(np.float32(value)) for value in values]


@given(st.lists(windows, min_size=1, max_size=4))
def test_lists_of_lists_are_a_batch_in_their_order(batch: list[list[float]]) -> None:
    decoded = decode_values(SERIES, batch)

    assert decoded.shape == (len(batch), 3, 1)
    assert decoded[:, :, 0].tolist() == np.asarray(batch, dtype=np.float32).tolist()


@given(st.lists(windows, min_size=1, max_size=4))
def test_rows_of_a_series_decode_as_their_values_do(batch: list[list[float]]) -> None:
    rows = [[{"close": value, "ignored": "x"} for value in window] for window in batch]

    assert decode_rows(SERIES, rows).tolist() == decode_values(SERIES, batch).tolist()
    assert decode_rows(SERIES, rows[0]).tolist() == decode_values(SERIES, batch[0]).tolist()


def test_features_are_ordered_as_in_the_contract_whatever_the_order_in_the_row() -> None:
    window = [{"heat": 1, "load": 2}, {"load": 4, "heat": 3}]

    assert decode_rows(PAIRS, window).tolist() == [[[2, 1], [4, 3]]]


def test_row_of_a_table_is_an_object_or_the_numbers_in_order() -> None:
    assert decode_rows(TABLE, {"height": 2, "width": 1}).tolist() == [[1, 2]]
    assert decode_rows(TABLE, [{"height": 2, "width": 1}, {"height": 4, "width": 3}]).tolist() == [[1, 2], [3, 4]]
    assert decode_values(TABLE, [1, 2]).tolist() == [[1, 2]]
    assert decode_values(TABLE, [[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]


def test_bounds_are_inclusive() -> None:
    assert decode_values(SERIES, [0.5, 1000, 1000.0]).ravel().tolist() == [0.5, 1000, 1000]


def test_largest_float32_is_taken() -> None:
    assert decode_values(PAIRS, [[LARGEST, -LARGEST], [1, 2]]).max() == LARGEST


def test_contracts_that_have_decoded_are_equal_still() -> None:
    first, second = build_pair_series(), build_pair_series()
    for contract in (first, second):
        decode_values(contract, [[1, 2], [3, 4]])
    assert first == second


def test_own_route_takes_values_or_rows() -> None:
    assert decode_request(SERIES, {"values": [1, 2, 3], "version": "7"}).shape == (1, 3, 1)
    assert decode_request(TABLE, {"rows": [{"width": 1, "height": 2}]}).shape == (1, 2)


# --- what is wrong ---------------------------------------------------------------------------------------------------


@CONTRACTS
@settings(max_examples=300)
@given(body=rubbish)
def test_any_other_body_is_rejected_and_nothing_else_is_raised(contract: Contract, body: object) -> None:
    refusals = []
    for decode in (decode_request, decode_values, decode_rows):
        try:
            check_inputs(contract, decode(contract, body))
        except RequestRejected as refused:
            refusals.append(refused)
    for refusal in refusals:
        assert len(refusal.sentence) < 2000
        assert json.loads(json.dumps(refusal.facts()))["errors"]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *NOT_FINITE], ids=lambda value: type(value).__name__)
def test_value_that_is_no_finite_number_is_named_by_its_place(value: object) -> None:
    assert faults_of(decode_values, SERIES, [1.0, value, 2.0]) == ["values[1]"]
    assert faults_of(decode_values, SERIES, [[1, 2, 3], [1, 2, value]]) == ["values[1][2]"]
    assert faults_of(decode_rows, SERIES, [{"close": 1}, {"close": 1}, {"close": value}]) == ["rows[2].close"]
    assert faults_of(decode_rows, TABLE, [{"width": value, "height": 1}]) == ["rows[0].width"]


@pytest.mark.parametrize("value", [0.49, 0, -1, -(10**400), 1000.1, 1001, 10**400])
def test_value_out_of_bounds_is_refused_with_bounds_and_unit(value: float) -> None:
    with pytest.raises(RequestRejected) as refused:
        decode_values(SERIES, [1, 2, value])

    assert refused.value.faults[0].rule == "a finite number from 0.5 to 1000 is expected (close in USD)"


def test_values_of_a_table_are_held_against_the_bounds_of_their_own_columns() -> None:
    assert faults_of(decode_values, TABLE, [-1, 11]) == ["values[0]", "values[1]"]
    assert decode_values(TABLE, [11, -1]).tolist() == [[11, -1]]


def test_bound_on_one_side_is_worded_and_checked_alone() -> None:
    with pytest.raises(RequestRejected) as refused:
        decode_rows(TABLE, {"width": -1, "height": 11})

    assert [fault.rule for fault in refused.value.faults] == [
        "a finite number from 0 to ∞ is expected",
        "a finite number from -∞ to 10 is expected (height in m)",
    ]


@pytest.mark.parametrize("values", [[], [1, 2], [1, 2, 3, 4], {}, None, "123", 1, [[]], [[1, 2]], [[1, 2, 3], 4]])
def test_values_of_another_length_or_form_are_refused(values: object) -> None:
    faults_of(decode_values, SERIES, values)


@pytest.mark.parametrize("rows", [[], [{"close": 1}], [{"close": 1}] * 4, {"close": 1}, [[]], [1, 2, 3], None, "rows"])
def test_windows_of_another_length_or_form_are_refused(rows: object) -> None:
    faults_of(decode_rows, SERIES, rows)


def test_every_missing_column_is_named() -> None:
    assert faults_of(decode_rows, TABLE, [{"width": 1}, {"width": 1, "height": 2}, {}]) == [
        "rows[0].height",
        "rows[2].width",
        "rows[2].height",
    ]


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([], ["values"]),
        ([1, 2], ["values[0]", "values[1]"]),
        ([[1, 2]], ["values"]),
        ([[1, 2], [3, True]], ["values[1][1]"]),
        ([[1, 2], [3, 10**400]], ["values[1][1]"]),
        ([[1, 2], [3]], ["values[1]"]),
        ([[[1, 2], [3, 4]], [[5, 6]]], ["values[1]"]),
        ([[[1, 2], [3, 4]], [[5, 6], [7, None]]], ["values[1][1][1]"]),
    ],
)
def test_fault_in_the_values_of_several_features_is_named_by_step_and_feature(
    values: object, places: list[str]
) -> None:
    assert faults_of(decode_values, PAIRS, values) == places


def test_values_of_several_features_are_one_window_or_many() -> None:
    assert decode_values(PAIRS, [[1, 2], [3, 4]]).tolist() == [[[1, 2], [3, 4]]]
    assert decode_values(PAIRS, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]).tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


@pytest.mark.parametrize("body", [None, [], [1, 2, 3], "values", {}, {"values": [1, 2, 3], "rows": []}, {"value": 1}])
def test_own_route_wants_exactly_one_of_values_and_rows(body: object) -> None:
    assert faults_of(decode_request, SERIES, body) == ["body"]


def test_batch_has_a_largest_size() -> None:
    row = [1.0, 2.0]

    assert len(decode_values(TABLE, [row] * MAX_ROWS)) == MAX_ROWS
    for decode, batch in ((decode_values, row), (decode_rows, {"width": 1, "height": 2})):
        with pytest.raises(RequestRejected, match=f"at most {MAX_ROWS} at once"):
            decode(TABLE, [batch] * (MAX_ROWS + 1))


def test_thousands_of_faults_make_a_short_error() -> None:
    with pytest.raises(RequestRejected) as refused:
        decode_values(TABLE, [["x", "y"]] * MAX_ROWS)

    assert len(refused.value.faults) < 30
    assert len(refused.value.sentence) < 2000


def test_deep_and_large_bodies_are_refused_without_being_written_out() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    large = ["x" * 10_000_000, *range(1_000_000)]

    for body in (deep, {"values": deep}, {"values": [deep]}, {"values": [large]}, {"x" * 10_000_000: large}):
        with pytest.raises(RequestRejected) as refused:
            decode_request(SERIES, body)
        assert len(refused.value.sentence) < 2000
    while deep:
        deep = deep[0]  # type: ignore[assignment]  # taken apart from outside: Python's own way is as deep as the list


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_array_in_shape_and_bounds_is_fine() -> None:
    check_inputs(SERIES, np.asarray([[[0.5], [1000], [7]]], dtype=np.float32))


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1, 4, 1), (1, 3, 2), (1, 3, 1, 1), (3,)])
def test_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestRejected, match=r"the shape \['batch', 3, 1\] is expected"):
        check_inputs(SERIES, np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.4999, 1000.1, 0.0])
def test_array_with_a_value_that_is_not_allowed_is_refused_at_its_place(value: float) -> None:
    inputs = np.ones((2, 3, 1), dtype=np.float32)
    inputs[1, 2, 0] = value

    assert faults_of(check_inputs, SERIES, inputs) == ["inputs[1, 2] close"]  # type: ignore[arg-type]  # an array is an object


def test_array_s_faults_name_the_column_of_each() -> None:
    inputs = np.asarray([[-1, 11], [1, 1]], dtype=np.float32)

    assert faults_of(check_inputs, TABLE, inputs) == ["inputs[0] width", "inputs[0] height"]  # type: ignore[arg-type]  # an array is an object
