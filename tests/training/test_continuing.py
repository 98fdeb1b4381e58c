"""Which weights a training goes on from, and which parameters then hold."""

from pathlib import Path
from typing import Any, cast

import pytest

from core.errors import ParameterRejected, TrainingFailed
from core.trainings import WHERE_POSSIBLE
from training.candidate import Candidate
from training.continuing import choose_earlier
from workloads.catalogue import get_workload

_FAILURES = get_workload("failures")


def build_champion(**parameters: int | float) -> tuple[Candidate, Path]:
    """A version of `failures` that was trained with these parameters; nothing of it is computed."""
    nothing = cast(Any, None)
    return Candidate(3, _FAILURES.build_contract(), nothing, nothing, parameters), Path("model.keras")


def test_tuned_version_is_continued_with_the_network_that_it_has() -> None:
    champion = build_champion(hidden_size=64, num_layers=3, max_epochs=2, patience=1, batch_size=8, seed=99, gone=1)
    for wish in (1, WHERE_POSSIBLE):
        earlier, parameters = choose_earlier(_FAILURES, wish, champion, {"batch_size": 32})
        assert earlier is not None
        assert earlier.keras_path == Path("model.keras")
        # The network is the version's; how it is fitted comes from the workload and the request.
        assert parameters == _FAILURES.resolve_parameters({"hidden_size": 64, "num_layers": 3, "batch_size": 32})


def test_what_is_given_goes_before_what_the_version_had() -> None:
    _, parameters = choose_earlier(_FAILURES, 1, build_champion(learning_rate=0.01), {"learning_rate": 0.02})
    assert parameters["learning_rate"] == 0.02


def test_training_anew_takes_nothing_from_the_version_in_production() -> None:
    earlier, parameters = choose_earlier(_FAILURES, 0, build_champion(hidden_size=64), {})
    assert earlier is None
    assert parameters == _FAILURES.resolve_parameters()


def test_without_a_version_to_continue_it_is_trained_anew_where_that_was_left_open() -> None:
    assert choose_earlier(_FAILURES, WHERE_POSSIBLE, None, {}) == (None, _FAILURES.resolve_parameters())
    with pytest.raises(TrainingFailed, match="no version is in Production"):
        choose_earlier(_FAILURES, 1, None, {})


def test_weights_of_other_features_are_not_continued() -> None:
    champion, path = build_champion()
    features = champion.contract.features[:-1]
    other = Candidate(
        3,
        champion.contract.model_copy(update={"features": features}),
        champion.model,
        champion.seen,
        {"hidden_size": 64},
    )
    assert choose_earlier(_FAILURES, WHERE_POSSIBLE, (other, path), {}) == (None, _FAILURES.resolve_parameters())
    with pytest.raises(TrainingFailed, match="its features were"):
        choose_earlier(_FAILURES, 1, (other, path), {})


def test_ranking_is_trained_anew() -> None:
    books = get_workload("books")
    nothing = cast(Any, None)
    champion = (Candidate(1, books.build_contract(), nothing, nothing, {}), Path("model.keras"))
    assert choose_earlier(books, WHERE_POSSIBLE, champion, {}) == (None, books.resolve_parameters())
    with pytest.raises(TrainingFailed, match="a ranking is trained anew"):
        choose_earlier(books, 1, champion, {})


def test_parameter_that_the_version_had_and_that_is_refused_today_is_named() -> None:
    with pytest.raises(ParameterRejected, match="hidden_size=1"):
        choose_earlier(_FAILURES, 1, build_champion(hidden_size=1), {})
