"""How errors show what they received."""

import pytest

from core.errors import Fault, RequestRejected, show_faults, show_value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        ([None, False, float("nan"), float("-inf")], "[null, false, NaN, -Infinity]"),
        (1.5, "1.5"),
        ("text", "'text'"),
        ("a\nb\x1b[31m", r"'a\nb\x1b[31m'"),
        ([1, "a"], "[1, 'a']"),
        ({"a": [1]}, "{'a': [1]}"),
        ("x" * 100, "'" + "x" * 58 + "…"),
        (10**5000, "an integer of 16610 bits"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_is_shown_in_its_literal_form_cut_to_sixty_characters(value: object, shown: str) -> None:
    assert show_value(value) == shown
    assert len(shown) <= 60


def test_first_five_faults_are_shown_and_the_rest_counted() -> None:
    faults = [Fault(f"line {number}", "'x'", "a number is expected") for number in range(1, 8)]

    assert show_faults(faults[:1]) == "line 1: 'x' is not allowed, a number is expected"
    assert show_faults(faults[:5]).endswith("line 5: 'x' is not allowed, a number is expected")
    assert show_faults(faults).endswith("line 5: 'x' is not allowed, a number is expected; and 2 more")
    assert show_faults(faults, total=900).endswith("; and 895 more")


def test_error_carries_its_facts_for_a_program() -> None:
    error = RequestRejected("prices", [Fault("values[3]", "'x'", "a number is expected")])

    assert str(error) == error.sentence
    assert error.facts() == {
        "model": "prices",
        "errors": [{"where": "values[3]", "value": "'x'", "rule": "a number is expected"}],
    }
