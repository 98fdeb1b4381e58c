"""Kind `ranking`: interactions of users with items -> histories and what users liked later, popularity, NDCG.

A row of a part is one user: the input is what the user had before, the target what the user liked afterwards. A user
and an item are one interaction however often they met, so that nothing that is asked for is known already.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.contract import MAX_ITEMS, Contract, Ranking
from core.data_errors import SnapshotRejected
from core.errors import ParameterRejected
from core.features import encode_history
from core.verdicts import Check
from training.parts import (
    Columns,
    FloatArray,
    Mask,
    Part,
    Parts,
    Seen,
    check_parts,
    find_borders,
    hash_keys,
    refuse_parts,
)
from workloads.declaration import SplitPolicy

if TYPE_CHECKING:
    import keras

POPULARITY = "popularity"
TOP = 10
"""How many items of an answer the metrics look at."""

LOSS = "ndcg_loss"
_UNKNOWN = -1.0
"""A liked item that the version does not know: it was there to be found, and cannot be."""


@dataclass(frozen=True)
class _Interactions:
    """Distinct pairs of user and item, ordered by user and then by time, else by strength; all `(pairs,)`.

    `times` is None unless every one has its time; `places` are hashes of the pairs, from 0 to 1.
    """

    users: NDArray[np.str_]
    items: NDArray[np.str_]
    strengths: FloatArray
    times: NDArray[np.datetime64] | None
    places: FloatArray

    def take(self, chosen: Mask | NDArray[np.int64]) -> "_Interactions":
        times = None if self.times is None else self.times[chosen]
        return _Interactions(self.users[chosen], self.items[chosen], self.strengths[chosen], times, self.places[chosen])


def learn_contract(contract: Contract, columns: Columns, policy: SplitPolicy) -> Contract:
    """The contract with the items of the training part, sorted; raises SnapshotRejected for more than 100,000."""
    train, _, _ = _cut(contract, _read(contract, columns), policy)
    items = np.unique(train.items)
    if len(items) > MAX_ITEMS:
        raise SnapshotRejected(
            contract.model,
            f"{len(items)} items are more than the {MAX_ITEMS} that a version can name; group them first",
        )
    return contract.model_copy(update={"vocabularies": {contract.features[0]: tuple(str(item) for item in items)}})


def build_part(contract: Contract, columns: Columns) -> Part:
    """Every user with all that the user has, and all that the user liked."""
    interactions = _read(contract, columns)
    return _build_rows(contract, interactions, interactions)


def split_columns(contract: Contract, columns: Columns, policy: SplitPolicy) -> Parts:
    """Cut the interactions, at the same times for all users where each has its time, else by the hash of the pair.

    The training part has a row for each user who liked something in it, and that is both input and target. A row of
    the later parts is what a user had in the parts before it, and what the user liked in it. Raises SnapshotRejected
    if a part would be empty.
    """
    train, validation, holdout = _cut(contract, _read(contract, columns), policy)
    known = _join(train, validation)
    parts = Parts(
        train=_build_rows(contract, train, train),
        validation=_build_rows(contract, train, validation),
        holdout=_build_rows(contract, known, holdout),
    )
    return check_parts(contract, parts, f"{len(known.users) + len(holdout.users)} interactions")


def split_seen(contract: Contract, columns: Columns, seen: Seen) -> tuple[Part, Part]:
    """The interactions that a version has looked at, as a training part, and users with what they liked since."""
    interactions = _read(contract, columns)
    if interactions.times is None:
        is_new = interactions.places < seen.holdout_share
    else:
        is_new = (
            np.zeros(len(interactions.users), dtype=np.bool_) if seen.until is None else interactions.times > seen.until
        )
    old = interactions.take(~is_new)
    return _build_rows(contract, old, old), _build_rows(contract, old, interactions.take(is_new))


def adapt_part(contract: Contract, other: Contract, part: Part) -> Part:
    """The part, built by the contract `other`, as a version with `contract` takes it: in its own codes and length."""
    names = np.array(["", *other.vocabularies[other.features[0]]])
    histories = [
        encode_history(contract, names[row[row[:, 0] > 0, 0].astype(np.int64)].tolist(), row[row[:, 0] > 0, 1].tolist())
        for row in part.inputs
    ]
    inputs = np.stack(histories) if histories else np.empty((0, *contract.input_shape), dtype=np.float32)
    return Part(inputs=inputs, targets=part.targets, keys=part.keys)


def translate(contract: Contract, other: Contract, predictions: FloatArray) -> FloatArray:
    """Answers `(rows, 2 · most)` of a version with `contract` in the codes of `other`, shortened or filled up."""
    codes = other.codes[other.features[0]]
    # An item that the other does not know takes its place in the list and can be no hit.
    table = np.array([0.0, *(codes.get(name, _UNKNOWN) for name in contract.vocabularies[contract.features[0]])])
    most, wanted = _get_ranking(contract).most, _get_ranking(other).most
    kept = min(most, wanted)
    answers = np.zeros((len(predictions), 2 * wanted))
    answers[:, :kept] = table[predictions[:, :kept].astype(np.int64)]
    answers[:, wanted : wanted + kept] = predictions[:, most : most + kept]
    return answers


def predict_baselines(contract: Contract, train: Part, part: Part) -> Mapping[str, FloatArray]:
    """Answers `(rows, 2 · most)` for `part`: the items most often liked in `train` that the user does not have."""
    liked = train.targets[train.targets > 0].astype(np.int64)
    counts = np.bincount(liked, minlength=len(contract.vocabularies[contract.features[0]]) + 1)
    most = _get_ranking(contract).most
    ordered = np.argsort(-counts[1:], kind="stable")[: most + contract.steps] + 1
    answers = np.zeros((part.rows, contract.outputs))
    for row, history in enumerate(part.inputs):
        found = ordered[~np.isin(ordered, history[:, 0])][:most]
        answers[row, : len(found)] = found
        answers[row, most : most + len(found)] = counts[found]
    return {POPULARITY: answers}


def measure(contract: Contract, targets: FloatArray, predictions: FloatArray) -> dict[str, float]:
    """The means of `measure_rows`, and how much of the catalogue the first ten of all rows cover together."""
    top = _take_top(predictions)
    measured = {name: float(values.mean()) for name, values in measure_rows(contract, targets, predictions).items()}
    covered = len(np.unique(top[top > 0])) / len(contract.vocabularies[contract.features[0]])
    return measured | {f"coverage_at_{TOP}": covered}


def measure_rows(contract: Contract, targets: FloatArray, predictions: FloatArray) -> dict[str, FloatArray]:
    """NDCG and recall of the first ten, and 1 - NDCG as a loss, each `(rows,)`.

    `targets` `(rows, liked)` are codes, 0 for none and -1 for an item that the version does not know; `predictions`
    `(rows, 2 · most)`. Every row has something that was liked. Source: Järvelin and Kekäläinen, "Cumulated gain-based
    evaluation of IR techniques", 2002.
    """
    hits = _find_hits(targets, _take_top(predictions))
    liked = (targets != 0).sum(axis=1)
    discounts = 1.0 / np.log2(np.arange(2, TOP + 2))
    gained = (hits * discounts[: hits.shape[1]]).sum(axis=1)
    ndcg = np.asarray(gained / np.cumsum(discounts)[np.clip(liked, 1, TOP) - 1])
    return {
        LOSS: 1.0 - ndcg,
        f"ndcg_at_{TOP}": ndcg,
        f"recall_at_{TOP}": np.asarray(hits.sum(axis=1) / np.maximum(liked, 1)),
    }


def compute_losses(contract: Contract, metric: str, targets: FloatArray, predictions: FloatArray) -> FloatArray:
    """1 - NDCG of the first ten `(rows,)`; raises ParameterRejected for another metric."""
    if metric != LOSS:
        raise ParameterRejected("metric", metric, f"of a ranking {LOSS} decides")
    return measure_rows(contract, targets, predictions)[LOSS]


def check_predictions(contract: Contract, targets: FloatArray, predictions: FloatArray) -> Check:
    """Whether answers `(rows, 2 · most)` are finite, name each item once and known ones alone, and fall in score."""
    most = _get_ranking(contract).most
    codes, scores = predictions[:, :most], predictions[:, most:]
    known = len(contract.vocabularies[contract.features[0]])
    ordered = np.sort(codes, axis=1)
    is_twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(axis=1)
    falls = ((np.diff(scores, axis=1) <= 0) | (codes[:, 1:] == 0)).all(axis=1)
    good = np.isfinite(predictions).all(axis=1) & np.isin(codes, np.arange(known + 1)).all(axis=1)
    rows = good & (codes[:, 0] > 0) & ~is_twice & falls
    share = float(rows.mean()) if len(rows) else 0.0
    has_passed = share == 1.0
    reason = (
        "every answer names known items once, best first"
        if has_passed
        else f"{1 - share:.1%} of the answers are empty, not finite, out of order, or name unknown items or one twice"
    )
    return Check("sanity", has_passed, share, 1.0, reason)


def align_answers(expected: FloatArray, actual: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scores `(rows, most)` of two answers to the same rows, item by item, for comparing exports.

    Two items whose scores all but tie may change places, and the last may be replaced by its equal: an item that the
    other answer lacks is compared with that answer's last score.
    """
    most = expected.shape[1] // 2
    if actual.shape != expected.shape:
        return expected, actual
    compared = np.empty((len(expected), most))
    for row in range(len(expected)):
        scores = dict(zip(actual[row, :most], actual[row, most:], strict=True))
        compared[row] = [scores.get(code, actual[row, -1]) for code in expected[row, :most]]
    return expected[:, most:], compared


def measure_spread(targets: FloatArray, predictions: FloatArray) -> float:
    """The standard deviation of the scores in `predictions` `(rows, 2 · most)`."""
    return float(predictions[:, predictions.shape[1] // 2 :].std())


def finish_model(contract: Contract, model: "keras.Model", train: Part) -> "keras.Model":
    """The model that serves: the fitted one, which scores all items, with exclusion and top-k behind it."""
    from training.ranking_answer import build_answering_model

    return build_answering_model(contract, model, train)


def _get_ranking(contract: Contract) -> Ranking:
    if contract.ranking is None:
        raise ValueError(f"{contract.model} is no ranking")
    return contract.ranking


def _read(contract: Contract, columns: Columns) -> _Interactions:
    """The interactions, each pair of user and item once: its last by time, else its strongest."""
    users = columns[contract.key.entity or ""].astype(np.str_)
    items = columns[contract.features[0]].astype(np.str_)
    strengths = columns[contract.target].astype(np.float64)
    name = _get_ranking(contract).time
    times = None if name is None or name not in columns else columns[name].astype("datetime64[us]")
    if times is not None and (not len(times) or np.isnat(times).any()):
        times = None
    order = np.lexsort((strengths, strengths if times is None else times, items, users))
    users, items, strengths = users[order], items[order], strengths[order]
    times = None if times is None else times[order]
    is_last = np.ones(len(users), dtype=np.bool_)
    is_last[:-1] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    places = hash_keys(np.char.add(np.char.add(users, "|"), items)[is_last])
    found = _Interactions(
        users[is_last], items[is_last], strengths[is_last], None if times is None else times[is_last], places
    )
    return _order(found)


def _cut(
    contract: Contract, interactions: _Interactions, policy: SplitPolicy
) -> tuple[_Interactions, _Interactions, _Interactions]:
    times = interactions.times
    if times is None:
        places = (interactions.places - policy.start) % 1.0
        is_holdout = places < policy.holdout_share
        is_validation = ~is_holdout & (places < policy.holdout_share + policy.validation_share)
    else:
        borders = find_borders(times, policy.validation_share, policy.holdout_share)
        if borders is None:
            raise refuse_parts(contract, f"{len(times)} interactions")
        is_holdout = np.asarray(times >= borders[1])
        is_validation = ~is_holdout & np.asarray(times >= borders[0])
    return (
        interactions.take(~is_holdout & ~is_validation),
        interactions.take(is_validation),
        interactions.take(is_holdout),
    )


def _join(first: _Interactions, second: _Interactions) -> _Interactions:
    times = None if first.times is None or second.times is None else np.concatenate([first.times, second.times])
    return _order(
        _Interactions(
            np.concatenate([first.users, second.users]),
            np.concatenate([first.items, second.items]),
            np.concatenate([first.strengths, second.strengths]),
            times,
            np.concatenate([first.places, second.places]),
        )
    )


def _order(pairs: _Interactions) -> _Interactions:
    """By user and time; without times by strength, so that a history that is cut keeps what was liked most."""
    return pairs.take(np.lexsort((pairs.items, pairs.strengths if pairs.times is None else pairs.times, pairs.users)))


def _build_rows(contract: Contract, known: _Interactions, asked: _Interactions) -> Part:
    """A row for each user who liked something in `asked`, with what the user has in `known`; ordered by user."""
    asked = asked.take(asked.strengths >= _get_ranking(contract).liked_from)
    users, starts, counts = np.unique(asked.users, return_index=True, return_counts=True)
    codes = contract.codes[contract.features[0]]
    wanted = np.array([codes.get(item, _UNKNOWN) for item in asked.items.tolist()], dtype=np.float64)
    targets = np.zeros((len(users), int(counts.max(initial=1))))
    inputs = np.zeros((len(users), *contract.input_shape), dtype=np.float32)
    firsts, lasts = np.searchsorted(known.users, users), np.searchsorted(known.users, users, side="right")
    for row, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        targets[row, : counts[row]] = wanted[starts[row] : starts[row] + counts[row]]
        inputs[row] = encode_history(contract, known.items[first:last].tolist(), known.strengths[first:last].tolist())
    times = asked.times
    return Part(
        inputs=inputs,
        targets=targets,
        keys=users,
        times=None if times is None else np.minimum.reduceat(times, starts) if len(starts) else times[:0],
        ends=None if times is None else np.maximum.reduceat(times, starts) if len(starts) else times[:0],
        entities=users,
        places=np.maximum.reduceat(asked.places, starts) if len(starts) else np.empty(0),
    )


def _take_top(predictions: FloatArray) -> FloatArray:
    """The codes of the first ten items `(rows, top)`, fewer where fewer are answered: behind them come scores."""
    return predictions[:, : min(TOP, predictions.shape[1] // 2)]


def _find_hits(targets: FloatArray, top: FloatArray) -> Mask:
    """Which of the items `(rows, top)` are among what was liked."""
    known = np.where(targets > 0, targets, np.nan)
    return np.stack([(known == top[:, [place]]).any(axis=1) for place in range(top.shape[1])], axis=1)
