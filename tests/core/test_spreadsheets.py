import pytest

from core.spreadsheets import neutralise

HOSTILE = ("=1+1", "+cmd", "-2+3", "@SUM(A1)", "\ttab", '=HYPERLINK("http://x","y")', "\uff1d1", "-", "-1e", "+")
HARMLESS = ("-3.5", "+7", "-.5e-3", "1=1", "a-b", "", "x@y")


@pytest.mark.parametrize("cell", [*HOSTILE, "\rx", "\nx", "-3.5\n", "\uff203"])
def test_cell_that_begins_like_a_formula_is_put_behind_an_apostrophe(cell: str) -> None:
    assert neutralise(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", HARMLESS)
def test_harmless_cell_stays_as_it_is(cell: str) -> None:
    assert neutralise(cell) == cell
