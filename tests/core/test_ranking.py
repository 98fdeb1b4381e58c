"""What a contract, a codec and a monitored feature make of a ranking."""

import numpy as np
import pytest

from core.codecs import check_inputs, decode_rows
from core.contract import MAX_ITEMS, Contract, Route, build_contract
from core.errors import DeclarationRejected, RequestRejected
from core.features import build_monitored
from tests.training.interactions import build_contract as build_songs

SONGS = ("a", "b", "c")


def rebuild(**changes: object) -> Contract:
    fields = build_songs(items=SONGS).model_dump() | changes
    return build_contract(str(fields.pop("model")), **fields)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ranking": None}, "a ranking needs ranking"),
        ({"key": {}}, "needs key.entity"),
        ({"features": ("song", "listener"), "monitored": ()}, "the item and the target"),
        ({"features": ("song",), "monitored": ()}, "the item and the target"),
        ({"ranking": {"liked_from": 4, "time": "stars"}}, "no column with a time"),
        ({"ranking": {"liked_from": 4, "most": 1001}}, "ranking.most"),
        ({"vocabularies": {"song": tuple(map(str, range(MAX_ITEMS + 1)))}}, f"at most {MAX_ITEMS} items"),
        (
            {"monitored": ({"name": "m", "column": "stars", "transform": "value"},)},
            "has no 'value'",
        ),
        ({"routes": ({"path": "/x", "method": "GET", "codec": "history"},)}, "needs {user}"),
        ({"routes": ({"path": "/x/{user}", "codec": "rows"},)}, "needs {user}"),
        ({"routes": ({"path": "/x", "method": "GET", "codec": "observations"},)}, "needs a codec"),
    ],
)
def test_a_ranking_that_contradicts_itself_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(DeclarationRejected) as refused:
        rebuild(**changes)
    assert reason in refused.value.sentence


def test_shapes_of_a_ranking_are_items_with_strengths_and_codes_with_scores() -> None:
    contract = rebuild()
    assert (contract.input_shape, contract.outputs) == ((4, 2), 6)
    assert contract.codes == {"song": {"a": 1, "b": 2, "c": 3}}
    assert Route(path="/x/{user}/y", method="GET", codec="history").answer == {}


def test_rows_of_one_user_are_read_and_faults_are_named() -> None:
    contract = rebuild()
    found = decode_rows(contract, [{"song": "b", "stars": 5}, {"song": "zz", "stars": 1}, {"song": "a", "stars": 2}])
    assert found.tolist() == [[[2.0, 5.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]]
    for row, place in (({"song": 3, "stars": 2}, "rows[0].song"), ({"song": "a", "stars": 6}, "rows[0].stars")):
        with pytest.raises(RequestRejected) as refused:
            decode_rows(contract, [row])
        assert place in refused.value.sentence


@pytest.mark.parametrize("entry", [[4.0, 3.0], [1.5, 3.0], [-1.0, 3.0], [1.0, 0.0], [1.0, np.nan], [np.inf, 3.0]])
def test_arrays_with_codes_or_strengths_that_cannot_be_are_refused(entry: list[float]) -> None:
    contract = rebuild()
    good = np.array([[[1.0, 3.0], [0.0, 0.0], [3.0, 5.0], [0.0, 0.0]]], dtype=np.float32)
    check_inputs(contract, good)
    bad = good.copy()
    bad[0, 1] = entry
    with pytest.raises(RequestRejected, match=r"inputs\[0, 1\]"):
        check_inputs(contract, bad)


def test_monitored_feature_is_the_mean_strength_of_what_is_known_and_zero_for_nothing() -> None:
    inputs = np.array([[[1, 5], [2, 2], [0, 0], [0, 0]], [[0, 0]] * 4], dtype=np.float32)
    assert build_monitored(rebuild(), inputs).tolist() == [[3.5], [0.0]]
