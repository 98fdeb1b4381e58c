"""The gate: the checks that a challenger passes to reach Production.

One rule. Champion and challenger are scored afresh on the same hold-out, which neither has trained on. The challenger
takes Production if a paired bootstrap interval of the difference in loss excludes no improvement; or, where a
confirmed finding speaks against the champion, if it is within the non-inferiority margin. A tie keeps the champion,
too few rows are insufficient evidence and keep it too. On no declared slice may the challenger be shown to be worse
than the champion beyond the slice's margin. Nothing may be worse than the baseline beyond its margin. The first
version ever has no champion to be compared with: all other checks are asked of it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.bootstrap import bootstrap_mean_interval
from core.verdicts import Check, Verdict, VerdictOutcome
from training.budget import Cost
from training.parts import FloatArray, Mask
from workloads.declaration import GatePolicy, Slice

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Scores:
    """One version's losses `(rows,)` on the rows named by `keys` `(rows,)`; their mean orders models as the gate's
    metric does."""

    version: int
    keys: NDArray[np.str_]
    losses: FloatArray


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at.

    The losses `(rows,)` belong to the common hold-out: rows that neither the challenger nor the champion has trained
    on; `baseline` are those of the baseline `baseline_name`. `validity` is the check of the snapshot's rows and
    `sanity` that of the challenger's predictions; `parity` is the largest difference between export and Keras model in
    units of what is allowed. `newest_at` is the time of the snapshot's newest row (UTC), None where rows have no time,
    and `judged_at` the present. `slices` says of each slice which rows `(rows,)` are in it. `block_length` is how many
    neighbouring rows are drawn together; 1 for rows without an order. `speaks_against_champion` says that a confirmed
    finding started this training.
    """

    validity: Check
    newest_at: datetime | None
    judged_at: datetime
    baseline_name: str
    baseline: FloatArray
    challenger: Scores
    champion: Scores | None
    sanity: Check
    parity: float
    cost: Cost
    slices: Sequence[tuple[Slice, Mask]]
    block_length: int
    training_rows: int
    speaks_against_champion: bool


def judge(model: str, policy: GatePolicy, evidence: Evidence, *, seed: int) -> Verdict:
    """The verdict on the challenger for `model`, with every check that was made, in order.

    A check that every version must pass and that fails ends in `refuse`, whatever the champion is.
    """
    champion = evidence.champion
    checks = [evidence.validity, _check_freshness(evidence, policy), _check_rows(evidence, policy)]
    if champion is not None:
        checks.append(_check_same_holdout(evidence, champion))
    checks += [evidence.sanity, _check_parity(evidence), *_check_cost(evidence.cost, policy)]
    if len(evidence.challenger.losses):
        checks.append(_check_baseline(evidence, policy))
    failed = [check for check in checks if not check.has_passed]
    if failed:
        is_short = failed[0].name == "rows"
        outcome: VerdictOutcome = "insufficient_evidence" if is_short else "refuse"
        return _verdict(model, evidence, outcome, failed[0].reason, checks)
    if champion is None:
        reason = "the first version: data, sanity, parity, budgets and baseline hold"
        return _verdict(model, evidence, "promote", reason, checks)
    better = _check_champion(evidence, champion, policy, seed)
    slices = [_check_slice(evidence, champion, policy, one, rows, seed) for one, rows in evidence.slices]
    deciding = next((check for check in (better, *slices) if not check.has_passed), better)
    outcome = "promote" if deciding.has_passed else "keep"
    return _verdict(model, evidence, outcome, deciding.reason, [*checks, better, *slices])


def _verdict(model: str, evidence: Evidence, outcome: VerdictOutcome, reason: str, checks: list[Check]) -> Verdict:
    champion = None if evidence.champion is None else evidence.champion.version
    return Verdict(model, evidence.challenger.version, champion, outcome, reason, tuple(checks))


def _check_freshness(evidence: Evidence, policy: GatePolicy) -> Check:
    limit = policy.maximum_age_h
    if evidence.newest_at is None:
        return Check("fresh", True, None, limit, "rows of this workload have no time")
    age_h = (evidence.judged_at - evidence.newest_at).total_seconds() / _HOUR_S
    found = f"the newest row is of {evidence.newest_at:%Y-%m-%d %H:%M}, {age_h:.0f} hours ago"
    if limit is None:
        return Check("fresh", True, age_h, None, f"{found}; no limit is declared")
    return Check("fresh", age_h <= limit, age_h, limit, f"{found}; {limit:g} are allowed")


def _check_rows(evidence: Evidence, policy: GatePolicy) -> Check:
    rows = len(evidence.challenger.losses)
    has_passed = rows >= policy.minimum_rows
    seen = "neither version has trained on" if evidence.champion else "it has not trained on"
    reason = f"{rows} hold-out rows that {seen}, {policy.minimum_rows} are needed; trained on {evidence.training_rows}"
    return Check("rows", has_passed, float(rows), float(policy.minimum_rows), reason)


def _check_same_holdout(evidence: Evidence, champion: Scores) -> Check:
    keys = evidence.challenger.keys
    common = np.intersect1d(keys, champion.keys)
    has_passed = np.array_equal(keys, champion.keys)
    word = "the same" if has_passed else "not the same"
    reason = f"version {champion.version} and the challenger are scored on {word} {len(keys)} rows"
    return Check("same_holdout", has_passed, float(len(common)), float(len(keys)), reason)


def _check_parity(evidence: Evidence) -> Check:
    has_passed = evidence.parity <= 1.0
    reason = f"export and Keras model differ by at most {evidence.parity:.3g} of what is allowed"
    return Check("parity", has_passed, evidence.parity, 1.0, reason)


def _check_cost(cost: Cost, policy: GatePolicy) -> list[Check]:
    latency, size = policy.maximum_latency_ms, policy.maximum_size_mb
    return [
        Check(
            "latency",
            cost.latency_ms <= latency,
            cost.latency_ms,
            latency,
            f"one row takes {cost.latency_ms:.3g} ms by ONNX Runtime on one thread, {latency:g} are allowed",
        ),
        Check(
            "size",
            cost.size_mb <= size,
            cost.size_mb,
            size,
            f"the ONNX file has {cost.size_mb:.3g} MB, {size:g} are allowed",
        ),
    ]


def _check_baseline(evidence: Evidence, policy: GatePolicy) -> Check:
    challenger = _metric(policy, evidence.challenger.losses)
    allowed = _metric(policy, evidence.baseline) * (1 + policy.baseline_margin)
    has_passed = bool(challenger <= allowed)
    word = "within" if has_passed else "beyond"
    reason = (
        f"{policy.metric} {challenger:.6g} is {word} the baseline's plus {policy.baseline_margin:.0%}, {allowed:.6g} "
        f"({evidence.baseline_name})"
    )
    return Check("baseline", has_passed, challenger, allowed, reason)


def _check_champion(evidence: Evidence, champion: Scores, policy: GatePolicy, seed: int) -> Check:
    differences = champion.losses - evidence.challenger.losses
    if not differences.any():
        reason = f"it predicts no better and no worse than version {champion.version} on any row: a tie"
        return Check("champion", False, 0.0, 0.0, reason)
    low, high = bootstrap_mean_interval(
        differences,
        confidence=policy.confidence,
        block_length=evidence.block_length,
        seed=seed,
    )
    interval = (
        f"mean improvement in {policy.metric} loss over version {champion.version} {differences.mean():.6g}, "
        f"{policy.confidence:.0%} interval {low:.6g} to {high:.6g} on {len(differences)} rows"
    )
    if low > 0:
        return Check("champion", True, low, 0.0, f"{interval}: better than the champion")
    if evidence.speaks_against_champion:
        threshold = -_loss_share(policy, policy.non_inferiority_margin) * float(champion.losses.mean())
        has_passed = low >= threshold
        word = "within" if has_passed else "beyond"
        reason = f"{interval}: {word} the non-inferiority margin, with a confirmed finding against the champion"
        return Check("champion", has_passed, low, threshold, reason)
    reason = f"{interval}: no improvement shown, the champion stays"
    return Check("champion", False, low, 0.0, reason)


def _check_slice(evidence: Evidence, champion: Scores, policy: GatePolicy, one: Slice, rows: Mask, seed: int) -> Check:
    """Fails where the whole interval lies beyond the margin.

    Slices are small and several: were each asked to show that it is not worse, chance alone would refuse good versions.
    """
    name = f"slice {one.name}"
    count = int(rows.sum())
    if count < one.minimum_rows:
        reason = f"{count} rows of slice {one.name!r} in the hold-out say nothing, {one.minimum_rows} are needed"
        return Check(name, True, None, None, reason)
    before = champion.losses[rows]
    # Neighbours in a slice are further apart in time than in the whole, so its blocks span at least as much.
    low, high = bootstrap_mean_interval(
        before - evidence.challenger.losses[rows],
        confidence=policy.confidence,
        block_length=min(evidence.block_length, max(1, count // 2)),
        seed=seed,
    )
    threshold = -_loss_share(policy, one.margin) * float(before.mean())
    has_passed = high >= threshold
    word = "not shown to be worse" if has_passed else "worse"
    reason = (
        f"on {count} rows of slice {one.name!r} the interval of the improvement over version {champion.version} is "
        f"{low:.6g} to {high:.6g}: {word} by more than {one.margin:.0%}"
    )
    return Check(name, has_passed, high, threshold, reason)


def _loss_share(policy: GatePolicy, margin: float) -> float:
    """The margin, a share of the metric, as a share of the mean loss; the loss of `rmse` is squared."""
    return (1 + margin) ** 2 - 1 if policy.metric == "rmse" else margin


def _metric(policy: GatePolicy, losses: FloatArray) -> float:
    mean = float(losses.mean())
    return float(np.sqrt(mean)) if policy.metric == "rmse" else mean
