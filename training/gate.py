"""The gate: the checks that a challenger passes to reach Production.

One rule. Champion and challenger are scored afresh on the same hold-out, which neither has trained on. The challenger
takes Production if a paired bootstrap interval of the difference in loss excludes no improvement; or, where a
confirmed finding speaks against the champion, if it is within the non-inferiority margin. A tie keeps the champion,
too few rows are insufficient evidence and keep it too. Nothing may be worse than the baseline beyond its margin. The
first version ever needs data, sanity, parity and baseline only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from core.verdicts import Check, Verdict, VerdictOutcome
from training.bootstrap import bootstrap_mean_interval, choose_block_length
from training.evaluation import LOSSES
from workloads.declaration import GatePolicy

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One version's predictions `(rows,)` of the common hold-out's targets, in the target's unit."""

    version: int
    predictions: FloatArray


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at.

    `targets` and `baseline` `(rows,)` belong to the common hold-out: rows later than anything that the challenger, or
    the champion, has trained on. `parity` is the largest difference between export and Keras model in units of what
    is allowed. `speaks_against_champion` says that a confirmed finding started this training.
    """

    targets: FloatArray
    baseline: FloatArray
    challenger: Scores
    champion: Scores | None
    parity: float
    training_rows: int
    speaks_against_champion: bool


def judge(contract: Contract, policy: GatePolicy, evidence: Evidence, *, seed: int) -> Verdict:
    """The verdict on the challenger, with every check that was made, in order.

    A check that every version must pass and that fails ends in `refuse`, whatever the champion is.
    """
    checks = [
        _check_data(evidence, policy),
        _check_sanity(contract, evidence),
        _check_parity(evidence),
    ]
    if len(evidence.targets):
        checks.append(_check_baseline(evidence, policy))
    failed = [check for check in checks if not check.has_passed]
    if failed:
        is_short = failed[0].name == "data"
        outcome: VerdictOutcome = "insufficient_evidence" if is_short else "refuse"
        return _verdict(contract, evidence, outcome, failed[0].reason, checks)
    if evidence.champion is None:
        reason = "the first version: data, sanity, parity and baseline hold"
        return _verdict(contract, evidence, "promote", reason, checks)
    check = _check_champion(evidence, evidence.champion, policy, seed)
    return _verdict(contract, evidence, "promote" if check.has_passed else "keep", check.reason, [*checks, check])


def _verdict(
    contract: Contract, evidence: Evidence, outcome: VerdictOutcome, reason: str, checks: list[Check]
) -> Verdict:
    champion = None if evidence.champion is None else evidence.champion.version
    return Verdict(contract.model, evidence.challenger.version, champion, outcome, reason, tuple(checks))


def _check_data(evidence: Evidence, policy: GatePolicy) -> Check:
    rows = len(evidence.targets)
    has_passed = rows >= policy.minimum_rows
    seen = "neither version has trained on" if evidence.champion else "it has not trained on"
    reason = f"{rows} hold-out rows that {seen}, {policy.minimum_rows} are needed; trained on {evidence.training_rows}"
    return Check("data", has_passed, float(rows), float(policy.minimum_rows), reason)


def _check_sanity(contract: Contract, evidence: Evidence) -> Check:
    predictions = evidence.challenger.predictions
    target = contract.column(contract.target)
    finite = np.isfinite(predictions)
    low = -np.inf if target.minimum is None else target.minimum
    high = np.inf if target.maximum is None else target.maximum
    in_range = finite & (predictions >= low) & (predictions <= high)
    share = float(in_range.mean()) if len(predictions) else 0.0
    is_constant = len(predictions) > 1 and np.ptp(predictions[finite]) == 0 if finite.any() else True
    if is_constant and len(evidence.targets) > 1 and np.ptp(evidence.targets) == 0:
        is_constant = False
    if share < 1.0:
        reason = f"{1 - share:.1%} of the predictions are not finite or not within {low:g} to {high:g}"
    elif is_constant:
        reason = "every prediction is the same number while the targets differ"
    else:
        reason = "every prediction is finite, in range, and they differ"
    return Check("sanity", share == 1.0 and not is_constant, share, 1.0, reason)


def _check_parity(evidence: Evidence) -> Check:
    has_passed = evidence.parity <= 1.0
    reason = f"export and Keras model differ by at most {evidence.parity:.3g} of what is allowed"
    return Check("parity", has_passed, evidence.parity, 1.0, reason)


def _check_baseline(evidence: Evidence, policy: GatePolicy) -> Check:
    loss = LOSSES[policy.metric]
    challenger = _metric(policy, loss(evidence.targets, evidence.challenger.predictions))
    allowed = _metric(policy, loss(evidence.targets, evidence.baseline)) * (1 + policy.baseline_margin)
    has_passed = bool(challenger <= allowed)
    word = "within" if has_passed else "beyond"
    reason = (
        f"{policy.metric} {challenger:.6g} is {word} the baseline's plus {policy.baseline_margin:.0%}, {allowed:.6g}"
    )
    return Check("baseline", has_passed, challenger, allowed, reason)


def _check_champion(evidence: Evidence, champion: Scores, policy: GatePolicy, seed: int) -> Check:
    loss = LOSSES[policy.metric]
    champion_losses = loss(evidence.targets, champion.predictions)
    differences = champion_losses - loss(evidence.targets, evidence.challenger.predictions)
    if not differences.any():
        reason = f"it predicts no better and no worse than version {champion.version} on any row: a tie"
        return Check("champion", False, 0.0, 0.0, reason)
    low, high = bootstrap_mean_interval(
        differences,
        confidence=policy.confidence,
        block_length=choose_block_length(len(differences)),
        seed=seed,
    )
    interval = (
        f"mean improvement in {policy.metric} loss over version {champion.version} {differences.mean():.6g}, "
        f"{policy.confidence:.0%} interval {low:.6g} to {high:.6g} on {len(differences)} rows"
    )
    if low > 0:
        return Check("champion", True, low, 0.0, f"{interval}: better than the champion")
    if evidence.speaks_against_champion:
        # The loss of `rmse` is squared, and so is its margin.
        margin = policy.non_inferiority_margin
        share = (1 + margin) ** 2 - 1 if policy.metric == "rmse" else margin
        threshold = -share * float(champion_losses.mean())
        has_passed = low >= threshold
        word = "within" if has_passed else "beyond"
        reason = f"{interval}: {word} the non-inferiority margin, with a confirmed finding against the champion"
        return Check("champion", has_passed, low, threshold, reason)
    reason = f"{interval}: no improvement shown, the champion stays"
    return Check("champion", False, low, 0.0, reason)


def _metric(policy: GatePolicy, losses: FloatArray) -> float:
    mean = float(losses.mean())
    return float(np.sqrt(mean)) if policy.metric == "rmse" else mean
