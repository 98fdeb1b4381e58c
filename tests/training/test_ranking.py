"""Kind `ranking`: parts, answers in the graph, metrics against independent ones, comparison of versions."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.metrics import ndcg_score

from core.contract import Contract
from core.errors import ParameterRejected, ParityFailed, TrainingFailed
from core.features import encode_history
from core.inference import OnnxModel
from tests.training.interactions import build_columns, build_contract
from training import ranking
from training.export import export_onnx, measure_parity
from training.fit import fit_model
from training.parts import Part, Seen, find_unseen
from training.ranking_answer import build_answering_model
from workloads.catalogue import get_workload
from workloads.declaration import SplitPolicy
from workloads.ranking_model import build_loss

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

POLICY = SplitPolicy(validation_share=0.2, holdout_share=0.2)
SONGS = tuple("abcdefgh")


def draw_rows(listeners: int = 30, songs: int = 20, seed: int = 1) -> list[tuple[str, str, int]]:
    generator = np.random.default_rng(seed)
    return [
        (f"u{listener}", f"s{song:02}", int(stars))
        for listener in range(listeners)
        for song, stars in zip(generator.choice(songs, 12, replace=False), generator.integers(1, 6, 12), strict=True)
    ]


def name_pairs(contract: Contract, part: Part, of_inputs: bool) -> set[tuple[str, str]]:
    names = contract.vocabularies["song"]
    rows = part.inputs[:, :, 0] if of_inputs else part.targets
    return {
        (str(key), names[int(code) - 1]) for key, row in zip(part.keys, rows, strict=True) for code in row if code > 0
    }


# --- parts -------------------------------------------------------------------------------------------------------


def test_no_pair_is_asked_for_that_is_known_and_none_lies_in_two_parts() -> None:
    rows = draw_rows()
    # The same song again with other stars, which another hash of the row would put into another part.
    columns = build_columns([*rows, *((who, song, 6 - stars) for who, song, stars in rows)])
    contract = ranking.learn_contract(build_contract(steps=20), columns, POLICY)
    parts = ranking.split_columns(contract, columns, POLICY)
    asked = [name_pairs(contract, part, of_inputs=False) for part in (parts.train, parts.validation, parts.holdout)]
    assert not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]
    assert not asked[1] & name_pairs(contract, parts.validation, of_inputs=True)
    assert not asked[2] & name_pairs(contract, parts.holdout, of_inputs=True)
    assert asked[1] & name_pairs(contract, parts.holdout, of_inputs=True)


def test_a_pair_stays_in_its_part_when_rows_are_added() -> None:
    rows = draw_rows()
    few, many = build_columns(rows), build_columns([*rows, *draw_rows(60, seed=2)[360:]])
    contract = ranking.learn_contract(build_contract(steps=20), few, POLICY)
    before = name_pairs(contract, ranking.split_columns(contract, few, POLICY).holdout, of_inputs=False)
    after = name_pairs(contract, ranking.split_columns(contract, many, POLICY).holdout, of_inputs=False)
    assert before and before < after


def test_hold_out_begins_where_the_policy_says() -> None:
    columns = build_columns(draw_rows())
    contract = ranking.learn_contract(build_contract(steps=20), columns, POLICY)
    first = ranking.split_columns(contract, columns, POLICY)
    moved = ranking.split_columns(contract, columns, replace(POLICY, start=POLICY.holdout_share))
    assert name_pairs(contract, moved.holdout, of_inputs=False) == name_pairs(
        contract, first.validation, of_inputs=False
    )


def test_parts_are_cut_in_order_of_time_where_every_interaction_has_one() -> None:
    rows = draw_rows()
    days = [str(np.datetime64("2024-01-01") + day) for day in np.random.default_rng(3).permutation(len(rows))]
    columns = build_columns(rows, days)
    contract = ranking.learn_contract(build_contract(steps=20), columns, POLICY)
    parts = ranking.split_columns(contract, columns, POLICY)
    border = np.datetime64("2024-01-01") + int(len(rows) * 0.8)
    assert parts.holdout.times is not None and parts.validation.ends is not None and parts.train.ends is not None
    assert parts.train.ends.max() < parts.validation.ends.max() < border <= parts.holdout.times.min()
    seen = Seen(until=parts.validation.ends.max())
    assert find_unseen(parts.holdout, seen).all()
    assert not find_unseen(parts.train, seen).any()


def test_items_are_learnt_from_the_training_part_and_others_cannot_be_hit() -> None:
    rows = [(f"u{number}", "common", 5) for number in range(40)]
    late = [("u1", "late", 5), ("u2", "late", 5)]
    days = [f"2024-01-{1 + number % 20:02}" for number in range(40)] + ["2024-02-01", "2024-02-02"]
    columns = build_columns([*rows, *late], days)
    policy = SplitPolicy(validation_share=0.1, holdout_share=0.05)
    contract = ranking.learn_contract(build_contract(), columns, policy)
    assert contract.vocabularies == {"song": ("common",)}
    holdout = ranking.split_columns(contract, columns, policy).holdout
    assert holdout.targets.tolist() == [[-1.0], [-1.0]]
    answers = np.array([[1.0, 0, 0, 0.5, 0, 0]] * 2)
    assert ranking.measure(contract, holdout.targets, answers)["ndcg_at_10"] == 0.0


def test_a_version_has_seen_all_pairs_but_those_that_its_hash_held_out() -> None:
    columns = build_columns(draw_rows())
    contract = ranking.learn_contract(build_contract(steps=20), columns, POLICY)
    holdout = ranking.split_columns(contract, columns, POLICY).holdout
    assert find_unseen(holdout, Seen(holdout_share=0.2)).all()
    assert not find_unseen(holdout, Seen(holdout_share=0.05)).all()
    known, unseen = ranking.split_seen(contract, columns, Seen(holdout_share=0.2))
    np.testing.assert_array_equal(unseen.targets, holdout.targets)
    np.testing.assert_array_equal(unseen.inputs, holdout.inputs)
    assert not name_pairs(contract, known, of_inputs=False) & name_pairs(contract, unseen, of_inputs=False)


def test_history_keeps_the_latest_known_items_and_the_last_word_on_each() -> None:
    contract = build_contract(steps=3, items=SONGS)
    history = encode_history(contract, ["a", "b", "x", "c", "d", "b"], [1, 2, 3, 4, 5, 4])
    assert history.tolist() == [[3.0, 4.0], [4.0, 5.0], [2.0, 4.0]]
    assert encode_history(contract, [], []).tolist() == [[0.0, 0.0]] * 3


# --- metrics -----------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(5)
    contract = build_contract(most=12, items=[f"s{number:02}" for number in range(40)])
    scores = generator.normal(size=(25, 40))
    liked = generator.random((25, 40)) < 0.2
    liked[:, 0] = True
    ordered = np.argsort(-scores, axis=1)[:, :12]
    answers = np.hstack([ordered + 1.0, np.take_along_axis(scores, ordered, axis=1)])
    targets = np.zeros((25, int(liked.sum(axis=1).max())))
    for row in range(25):
        codes = np.flatnonzero(liked[row]) + 1
        targets[row, : len(codes)] = codes
    measured = ranking.measure(contract, targets, answers)
    assert measured["ndcg_at_10"] == pytest.approx(ndcg_score(liked.astype(float), scores, k=10))
    recall = np.mean([liked[row, ordered[row, :10]].sum() / liked[row].sum() for row in range(25)])
    assert measured["recall_at_10"] == pytest.approx(recall)
    assert measured["coverage_at_10"] == pytest.approx(len(np.unique(ordered[:, :10])) / 40)
    losses = ranking.compute_losses(contract, "ndcg_loss", targets, answers)
    assert losses.shape == (25,)
    assert 1 - losses[3] == pytest.approx(ndcg_score(liked[3:4].astype(float), scores[3:4], k=10))
    with pytest.raises(ParameterRejected, match="ndcg_loss decides"):
        ranking.compute_losses(contract, "mae", targets, answers)


def test_scores_of_a_short_answer_are_taken_for_no_items() -> None:
    contract = build_contract(most=2, items=SONGS)
    # Songs 1 and 2 with the scores 5 and 4; songs 4 and 5 are liked.
    targets, answers = np.array([[4.0, 5.0]]), np.array([[1.0, 2.0, 5.0, 4.0]])
    measured = ranking.measure(contract, targets, answers)
    assert (measured["ndcg_at_10"], measured["recall_at_10"]) == (0.0, 0.0)
    assert measured["coverage_at_10"] == 2 / 8
    assert ranking.compute_losses(contract, "ndcg_loss", targets, answers).tolist() == [1.0]


def test_popularity_names_what_was_liked_most_and_is_not_had() -> None:
    contract = build_contract(items=SONGS)
    train = Part(
        np.zeros((3, 4, 2), np.float32), np.array([[1.0, 2, 3], [2, 3, 0], [3, 0, 0]]), np.array(["x", "y", "z"])
    )
    asked = Part(np.array([[[3, 1], [0, 0], [0, 0], [0, 0]]], np.float32), np.array([[1.0]]), np.array(["w"]))
    answer = ranking.predict_baselines(contract, train, asked)["popularity"]
    assert answer[0].tolist()[:2] == [2.0, 1.0]
    assert answer[0].tolist()[3:5] == [2.0, 1.0]


@pytest.mark.parametrize(
    "answer",
    [
        [1, 1, 2, 3, 2, 1],
        [9, 1, 2, 3, 2, 1],
        [1.5, 1, 2, 3, 2, 1],
        [1, 2, 3, 1, 2, 3],
        [0, 0, 0, 0, 0, 0],
        [1, 2, 3, np.nan, 2, 1],
    ],
    ids=["twice", "unknown", "no code", "rising", "empty", "nan"],
)
def test_answers_that_cannot_be_given_are_found(answer: list[float]) -> None:
    contract = build_contract(items=SONGS)
    good = [1.0, 2, 3, 3, 2, 1]
    assert ranking.check_predictions(contract, np.ones((1, 1)), np.array([good])).has_passed
    assert not ranking.check_predictions(contract, np.ones((2, 1)), np.array([good, answer])).has_passed


# --- the answer in the graph -------------------------------------------------------------------------------------


def build_fixed_model(contract: Contract, scores: list[float]) -> keras.Model:
    """Gives every item the same score whatever the history, shifted by a share of the history's first strength."""
    history = keras.Input(contract.input_shape, dtype="float32")
    fixed = keras.layers.Dense(len(scores), use_bias=True)
    answer = fixed(history[:, 0, 1:] * 0.0)
    fixed.set_weights([np.zeros((1, len(scores))), np.array(scores)])
    return keras.Model(history, answer)


def build_train(contract: Contract, liked: list[float]) -> Part:
    return Part(np.zeros((1, *contract.input_shape), np.float32), np.array([liked]), np.array(["x"]))


def test_answer_leaves_out_what_the_user_has_liked_or_not_and_is_best_first() -> None:
    contract = build_contract(items=SONGS)
    fixed = build_fixed_model(contract, [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    model = build_answering_model(contract, fixed, build_train(contract, [8.0, 7.0]))
    history = encode_history(contract, ["a", "c"], [5, 1])[None]
    answer = np.asarray(model(history))[0]
    assert answer[:3].tolist() == [2.0, 4.0, 5.0]
    np.testing.assert_allclose(answer[3:], [0.7, 0.5, 0.4], rtol=1e-6)


def test_answer_to_nobody_known_is_what_is_popular() -> None:
    contract = build_contract(items=SONGS)
    fixed = build_fixed_model(contract, [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    train = Part(np.zeros((2, 4, 2), np.float32), np.array([[7.0, 8.0], [8.0, 0.0]]), np.array(["x", "y"]))
    model = build_answering_model(contract, fixed, train)
    nobody = np.asarray(model(np.zeros((1, 4, 2), np.float32)))[0]
    assert nobody[:2].tolist() == [8.0, 7.0]
    assert nobody[3:5].tolist() == [2.0, 1.0]
    # One who has something and likes none of it.
    other = np.asarray(model(encode_history(contract, ["h"], [1])[None]))[0]
    assert other[0] == 7.0


def test_answer_is_filled_with_zeros_where_there_are_no_more_items() -> None:
    contract = build_contract(most=5, items=SONGS[:3])
    model = build_answering_model(contract, build_fixed_model(contract, [0.3, 0.2, 0.1]), build_train(contract, [1.0]))
    answer = np.asarray(model(encode_history(contract, ["a"], [5])[None]))[0]
    assert answer[:5].tolist() == [2.0, 3.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(answer[5:], [0.2, 0.1, 0.0, 0.0, 0.0], rtol=1e-6)


def test_export_answers_as_keras_does_and_parity_takes_a_change_of_places_for_none(tmp_path: Path) -> None:
    contract = build_contract(items=SONGS)
    # Two items that all but tie.
    fixed = build_fixed_model(contract, [0.8, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    model = build_answering_model(contract, fixed, build_train(contract, [8.0, 7.0]))
    export_onnx(model, tmp_path / "model.onnx")
    onnx = OnnxModel.load(tmp_path / "model.onnx")
    rows = np.stack([encode_history(contract, [song], [stars]) for song in SONGS for stars in (1, 5)])
    parity = measure_parity(model, onnx, rows, 0.1, align=ranking.align_answers)
    assert parity.difference <= parity.allowed
    # Another model by far is still found out.
    other = build_answering_model(contract, build_fixed_model(contract, [0.1] * 8), build_train(contract, [1.0]))
    with pytest.raises(ParityFailed):
        measure_parity(other, onnx, rows, 0.1, align=ranking.align_answers)


def test_alignment_compares_item_by_item() -> None:
    expected, actual = np.array([[1.0, 2, 3, 9, 8, 7]]), np.array([[2.0, 1, 4, 8, 9, 7]])
    left, right = ranking.align_answers(expected, actual)
    assert left.tolist() == right.tolist() == [[9.0, 8.0, 7.0]]


# --- comparison of versions --------------------------------------------------------------------------------------


def test_versions_that_know_other_items_are_compared_in_one_set_of_codes() -> None:
    ours, theirs = build_contract(items=("a", "b", "c")), build_contract(steps=2, most=2, items=("b", "c", "z"))
    part = Part(np.array([[[1, 5], [2, 4], [3, 1], [0, 0]]], np.float32), np.array([[1.0]]), np.array(["x"]))
    adapted = ranking.adapt_part(theirs, ours, part)
    assert adapted.inputs.tolist() == [[[1.0, 4.0], [2.0, 1.0]]]
    answered = ranking.translate(theirs, ours, np.array([[3.0, 1.0, 0.9, 0.4]]))
    np.testing.assert_allclose(answered, [[-1.0, 2.0, 0.0, 0.9, 0.4, 0.0]])


def test_a_ranking_is_trained_anew_and_never_continued() -> None:
    workload = get_workload("books")
    contract = workload.build_contract()
    part = Part(np.zeros((1, 256, 2), np.float32), np.ones((1, 1)), np.array(["x"]))
    with pytest.raises(TrainingFailed, match="trained anew"):
        fit_model(workload, contract, workload.resolve_parameters(), part, part, start_from=Path("model.keras"))


def test_loss_is_the_weighted_squared_error_over_all_items() -> None:
    generator = np.random.default_rng(2)
    scores, weights = generator.normal(size=(4, 6)), generator.random(6)
    codes = np.array([[1.0, 3.0], [6.0, 0.0], [0.0, 0.0], [2.0, 5.0]])
    wanted = np.zeros((4, 6))
    for row, column in zip(*np.nonzero(codes), strict=True):
        wanted[row, int(codes[row, column]) - 1] = 1.0
    expected = (weights * (wanted - scores) ** 2).sum(axis=1)
    found = np.asarray(
        build_loss(weights)(ops.convert_to_tensor(codes, "float32"), ops.convert_to_tensor(scores, "float32"))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
