"""The kinds of workload, behind one protocol: what training does differently for each.

Every function takes the contract first. Metrics and per-row losses come in pairs: a metric's mean loss orders models
as the metric does, and a smaller loss is better.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.contract import Contract
from core.verdicts import Check
from training import evaluation, parts, ranking, sanity, sequence, tabular
from training.parts import Columns, FloatArray, Mask, Part, Parts, Seen
from workloads.declaration import SplitPolicy

if TYPE_CHECKING:
    import keras


def _take_whole(contract: Contract, model: "keras.Model", train: Part) -> "keras.Model":
    return model


def _compare_whole(expected: FloatArray, actual: FloatArray) -> tuple[FloatArray, FloatArray]:
    return expected, actual


def _keep(contract: Contract, other: Contract, predictions: FloatArray) -> FloatArray:
    return predictions


def _measure_spread(targets: FloatArray, predictions: FloatArray) -> float:
    return float(targets.std())


@dataclass(frozen=True)
class Kind:
    """One kind.

    - `learn_contract(contract, columns, policy)`: the version's contract, with what is learnt from the training part
      alone (vocabularies). What follows takes this contract.
    - `build_part(contract, columns)`: every row that the snapshot's columns give.
    - `split_columns(contract, columns, policy)`: the same rows in training, validation and hold-out part; raises
      SnapshotRejected where one would be empty.
    - `find_unseen(part, seen)`: which rows of a part a version has not looked at.
    - `predict_baselines(contract, train, part)`: predictions `(rows, outputs)` for `part` of each baseline by name,
      made with nothing but `train`; the first is the one that the gate asks for.
    - `measure(contract, targets, predictions)`: metrics by name.
    - `compute_losses(contract, metric, targets, predictions)`: the loss of each row `(rows,)`.
    - `check_predictions(contract, targets, predictions)`: whether predictions are such as can be answered.

    What a kind does its own way, where most need nothing:

    - `finish_model(contract, model, train)`: the model that serves, from the fitted one.
    - `adapt_part(contract, other, part)`: a part built by the contract `other` as a version with `contract` takes it;
      without it, that version builds its own rows. `translate(contract, other, predictions)`: its answers in terms of
      `other`.
    - `split_seen(contract, columns, seen)`: rows that a version has looked at, and rows that it has not; without it,
      those of `build_part`.
    - `align_answers(expected, actual)`: what of the answers of a model and of its export is compared, and
      `measure_spread(targets, predictions)` the standard deviation that differences are held against.
    - `can_continue`: whether an earlier version's weights can be trained on.
    - `measure_rows(contract, targets, predictions)`: the metrics that are means over rows, by row `(rows,)`; with it no
      other metric has an interval.
    """

    learn_contract: Callable[[Contract, Columns, SplitPolicy], Contract]
    build_part: Callable[[Contract, Columns], Part]
    split_columns: Callable[[Contract, Columns, SplitPolicy], Parts]
    find_unseen: Callable[[Part, Seen], Mask]
    predict_baselines: Callable[[Contract, Part, Part], Mapping[str, FloatArray]]
    measure: Callable[[Contract, FloatArray, FloatArray], dict[str, float]]
    compute_losses: Callable[[Contract, str, FloatArray, FloatArray], FloatArray]
    check_predictions: Callable[[Contract, FloatArray, FloatArray], Check]
    finish_model: "Callable[[Contract, keras.Model, Part], keras.Model]" = _take_whole
    adapt_part: Callable[[Contract, Contract, Part], Part] | None = None
    translate: Callable[[Contract, Contract, FloatArray], FloatArray] = _keep
    split_seen: Callable[[Contract, Columns, Seen], tuple[Part, Part]] | None = None
    align_answers: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]] = _compare_whole
    measure_spread: Callable[[FloatArray, FloatArray], float] = _measure_spread
    can_continue: bool = True
    measure_rows: Callable[[Contract, FloatArray, FloatArray], Mapping[str, FloatArray]] | None = None


KINDS: Mapping[str, Kind] = {
    "sequence": Kind(
        learn_contract=sequence.learn_contract,
        build_part=sequence.build_part,
        split_columns=sequence.split_columns,
        find_unseen=parts.find_unseen,
        predict_baselines=sequence.predict_baselines,
        measure=evaluation.measure,
        compute_losses=evaluation.compute_losses,
        check_predictions=sanity.check_predictions,
    ),
    "tabular": Kind(
        learn_contract=tabular.learn_contract,
        build_part=tabular.build_part,
        split_columns=tabular.split_columns,
        find_unseen=parts.find_unseen,
        predict_baselines=tabular.predict_baselines,
        measure=evaluation.measure,
        compute_losses=evaluation.compute_losses,
        check_predictions=sanity.check_predictions,
    ),
    "ranking": Kind(
        learn_contract=ranking.learn_contract,
        build_part=ranking.build_part,
        split_columns=ranking.split_columns,
        find_unseen=parts.find_unseen,
        predict_baselines=ranking.predict_baselines,
        measure=ranking.measure,
        compute_losses=ranking.compute_losses,
        check_predictions=ranking.check_predictions,
        finish_model=ranking.finish_model,
        adapt_part=ranking.adapt_part,
        translate=ranking.translate,
        split_seen=ranking.split_seen,
        align_answers=ranking.align_answers,
        measure_spread=ranking.measure_spread,
        can_continue=False,
        measure_rows=ranking.measure_rows,
    ),
}


def get_kind(contract: Contract) -> Kind:
    """The kind that the contract declares."""
    return KINDS[contract.kind]
