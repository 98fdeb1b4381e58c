"""Features against computations of their own."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.features import build_monitored, build_windows
from tests.core.contracts import build_pair_series, build_series, build_table


@given(
    rows=st.integers(0, 30),
    features=st.integers(1, 3),
    steps=st.integers(1, 8),
    horizon=st.integers(1, 4),
)
def test_windows_are_every_run_of_rows_that_has_a_target(rows: int, features: int, steps: int, horizon: int) -> None:
    series = np.arange(rows * features, dtype=np.float64).reshape(rows, features)
    expected_windows = []
    expected_targets = []
    for start in range(rows):
        target = start + steps - 1 + horizon
        if target < rows:
            expected_windows.append([list(series[start + step]) for step in range(steps)])
            expected_targets.append(target)

    windows, targets = build_windows(series, steps, horizon)

    assert windows.shape == (len(expected_windows), steps, features)
    assert windows.tolist() == expected_windows
    assert targets.tolist() == expected_targets
    assert targets.dtype == np.int64


def test_target_follows_its_window_and_is_not_in_it() -> None:
    windows, targets = build_windows(np.arange(5.0)[:, None], steps=3)

    assert windows[:, :, 0].tolist() == [[0, 1, 2], [1, 2, 3]]
    assert targets.tolist() == [3, 4]


def test_windows_share_the_rows_memory_and_cannot_be_written() -> None:
    series = np.zeros((1000, 1))

    windows, _ = build_windows(series, 100)

    assert np.shares_memory(windows, series)
    with pytest.raises(ValueError, match="read-only"):
        windows[0, 0, 0] = 1.0


def test_series_is_monitored_by_its_last_value_and_last_log_return() -> None:
    inputs = np.asarray([[[1.0], [100.0], [110.0]], [[1.0], [200.0], [50.0]]], dtype=np.float32)

    monitored = build_monitored(build_series(), inputs)

    assert monitored.dtype == np.float64
    assert monitored[:, 0].tolist() == [110.0, 50.0]
    assert monitored[:, 1] == pytest.approx([math.log(110 / 100), math.log(50 / 200)], rel=1e-12)


def test_table_is_monitored_by_the_column_that_is_named() -> None:
    inputs = np.asarray([[1, 2], [3, 4], [5, 6]], dtype=np.float32)

    assert build_monitored(build_table(), inputs).tolist() == [[2], [4], [6]]


def test_nothing_monitored_has_a_row_for_each_request_all_the_same() -> None:
    assert build_monitored(build_pair_series(), np.zeros((4, 2, 2), dtype=np.float32)).shape == (4, 0)


def test_no_request_is_monitored_by_no_row() -> None:
    assert build_monitored(build_series(), np.empty((0, 3, 1), dtype=np.float32)).shape == (0, 2)
