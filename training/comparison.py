"""Champion and challenger on the same rows: the evidence that the gate looks at."""

from datetime import UTC, datetime

import numpy as np

from core.bootstrap import choose_row_blocks
from core.contract import Contract
from core.errors import TrainingFailed
from training.budget import Cost
from training.candidate import Candidate
from training.export import Parity
from training.gate import Evidence, Scores
from training.kinds import get_kind
from training.parts import Columns, FloatArray, Part, Parts
from training.sanity import check_rows
from training.slices import find_slice
from workloads.declaration import Workload


def gather_evidence(
    workload: Workload,
    columns: Columns,
    parts: Parts,
    challenger: Candidate,
    champion: Candidate | None,
    *,
    parity: Parity,
    cost: Cost,
    judged_at: datetime,
    speaks_against_champion: bool,
) -> Evidence:
    """Losses on the common hold-out: the challenger's, less what the champion has seen or cannot predict.

    Raises TrainingFailed where a version answers something else than the hold-out holds.
    """
    contract = challenger.contract
    kind = get_kind(contract)
    seen = challenger.seen if champion is None else challenger.seen.join(champion.seen)
    holdout = parts.holdout.take(kind.find_unseen(parts.holdout, seen))
    champion_scores: Scores | None = None
    if champion is not None:
        if champion.contract.classes != contract.classes:
            raise TrainingFailed(
                workload.name,
                "compare versions",
                f"one answers the classes {list(champion.contract.classes)} and the other {list(contract.classes)}; "
                "archive the version in Production, or declare the workload under another name",
            )
        scored = champion.predict(contract, columns, holdout)
        holdout = holdout.take(np.isin(holdout.keys, scored.keys))
        losses = _compute_losses(workload, contract, holdout, scored.predictions)
        champion_scores = Scores(champion.version, scored.keys, losses)
    predictions = challenger.model.predict(holdout.inputs).astype(np.float64)
    losses = _compute_losses(workload, contract, holdout, predictions)
    baseline_name, baseline = next(iter(kind.predict_baselines(contract, parts.train, holdout).items()))
    return Evidence(
        validity=check_rows(contract, columns),
        newest_at=_find_newest(contract, columns),
        judged_at=judged_at,
        baseline_name=baseline_name,
        baseline=kind.compute_losses(contract, workload.gate.metric, holdout.targets, baseline),
        challenger=Scores(challenger.version, holdout.keys, losses),
        champion=champion_scores,
        sanity=kind.check_predictions(contract, holdout.targets, predictions),
        parity=parity.difference / parity.allowed if parity.allowed else 0.0,
        cost=cost,
        slices=[(one, find_slice(contract, holdout, one)) for one in workload.slices],
        block_length=choose_row_blocks(holdout.times),
        training_rows=parts.train.rows,
        speaks_against_champion=speaks_against_champion,
    )


def _compute_losses(workload: Workload, contract: Contract, holdout: Part, predictions: FloatArray) -> FloatArray:
    if predictions.shape != (holdout.rows, contract.outputs):
        raise TrainingFailed(
            workload.name,
            "compare versions",
            f"one answers {predictions.shape[1]} numbers a row and the other {contract.outputs}; "
            "archive the version in Production, or declare the workload under another name",
        )
    return get_kind(contract).compute_losses(contract, workload.gate.metric, holdout.targets, predictions)


def _find_newest(contract: Contract, columns: Columns) -> datetime | None:
    name = contract.key.time if contract.ranking is None else contract.ranking.time
    if name is None or name not in columns:
        return None
    times = columns[name].astype("datetime64[us]")
    # The time of an interaction may be absent.
    times = times[~np.isnat(times)]
    if not len(times):
        return None
    newest: datetime = times.max().item()
    return newest.replace(tzinfo=UTC)
