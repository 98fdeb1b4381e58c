"""What the rows of a request say of the key that is predicted."""

from datetime import UTC, datetime

import pytest

from core.predicted_keys import PredictedKey, find_predicted_keys
from tests.outcomes.predicting import build_series, build_table
from workloads.catalogue import get_workload

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def test_series_is_predicted_one_step_after_its_last_row() -> None:
    window = [{"machine": "m7", "at": f"2026-01-05T{hour:02d}:00:00Z", "reading": 1.0} for hour in range(8, 12)]
    contract = build_series("series")
    assert find_predicted_keys(contract, window) == [PredictedKey("m7", NOON)]
    without = [{name: row[name] for name in ("at", "reading")} for row in window]
    assert find_predicted_keys(contract, [window, without]) == [PredictedKey("m7", NOON), PredictedKey("m1", NOON)]


def test_row_of_a_table_is_its_own_key() -> None:
    rows = [{"car": 17, "findings": 1.0}, {"findings": 1.0}]
    assert find_predicted_keys(build_table("cars"), rows) == [PredictedKey("17", None), None]
    week = {"aircraft": " PT-A ", "date": "2026-01-05T14:00:00+02:00"}
    assert find_predicted_keys(get_workload("man_hours").build_contract(), week) == [PredictedKey("PT-A", NOON)]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"aircraft": "a"},
        {"aircraft": "a", "date": "soon"},
        {"aircraft": "a", "date": 5},
        {"aircraft": "a", "date": "0001-01-01"},
        {"aircraft": True, "date": "2026-01-05"},
        {"aircraft": "\ud800", "date": "2026-01-05"},
        {"aircraft": "a\0", "date": "2026-01-05"},
        {"aircraft": "a" * 501, "date": "2026-01-05"},
        "no row",
    ],
)
def test_key_that_cannot_be_read_is_none(row: object) -> None:
    assert find_predicted_keys(get_workload("man_hours").build_contract(), [row]) is None


def test_ranking_and_rows_under_their_hash_have_no_key() -> None:
    assert find_predicted_keys(get_workload("books").build_contract(), [{"user_id": 1}]) is None
