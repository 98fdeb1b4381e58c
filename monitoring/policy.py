"""What follows from a check: the one place that turns a measure into an outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.findings import Outcome
from core.policies import DriftPolicy
from monitoring.drift import DriftMeasure


@dataclass(frozen=True)
class PastCheck:
    """What an earlier check of the same version found.

    `checked_at` is UTC; `served` is how many predictions the version had answered by then.
    """

    checked_at: datetime
    is_drifted: bool
    outcome: Outcome
    served: int


@dataclass(frozen=True)
class Decision:
    """The outcome of a check and the sentences that led to it, most telling first."""

    outcome: Outcome
    reasons: tuple[str, ...]


def decide(
    history: Sequence[PastCheck], measure: DriftMeasure, policy: DriftPolicy, now: datetime, *, served: int
) -> Decision:
    """Judges one measure in the light of earlier checks, in any order; `served` is the version's predictions so far.

    Asked in this order, the first that applies decides:

    1. Is the data itself broken (a feature without values, most requests refused)? A data incident: a model that is
       trained on broken data is worse than the one in place.
    2. Are there enough rows to say anything? If not, nothing is said.
    3. Did a feature drift, by its calibrated threshold and by its effect? If not, all is fine.
    4. Did enough of the last checks find drift? If not, people are told and nothing else is done.
    5. Was there a retraining within the cooldown? If so, the same.

    What is left starts a retraining. Checks before the last retraining confirm nothing, and neither does one after
    which fewer than `minimum_rows` predictions came: it saw the same rows.
    """
    if measure.missing:
        missing = ", ".join(measure.missing)
        reason = f"no values to judge for {missing}, although there were {measure.rows} rows"
        return Decision("data_incident", (reason, "a missing column is repaired, not learned"))
    if measure.refusals > measure.rows and measure.refusals >= policy.minimum_rows:
        return Decision(
            "data_incident",
            (f"{measure.refusals} requests were refused and only {measure.rows} answered",),
        )
    if not measure.is_conclusive or measure.rows < policy.minimum_rows:
        return Decision("fine", (f"{measure.rows} rows are too few to judge",))
    if not measure.is_drifted:
        return Decision("fine", (f"no feature drifted over {measure.rows} rows",))

    found = tuple(
        f"{feature.name} drifted: distance {feature.statistic:.3f} above its threshold {feature.threshold:.3f}, "
        f"effect {feature.effect:.2f} standard deviations"
        for feature in measure.drifted
    )
    retrainings = [check.checked_at for check in history if check.outcome == "retrain"]
    last_retraining_at = max(retrainings, default=None)
    recent = sorted(
        (check for check in history if last_retraining_at is None or check.checked_at > last_retraining_at),
        key=lambda check: check.checked_at,
    )
    looked_at = _find_separate(recent, policy.minimum_rows, served)[: policy.confirm_of - 1]
    confirming = 1 + sum(check.is_drifted and check.outcome != "data_incident" for check in looked_at)
    tally = (
        f"{confirming} of the last {policy.confirm_of} checks found drift, {policy.confirm_checks} are asked for "
        f"(checks with at least {policy.minimum_rows} predictions between them)"
    )
    if confirming < policy.confirm_checks:
        return Decision("alert", (*found, tally))
    if last_retraining_at is not None and now - last_retraining_at < timedelta(hours=policy.cooldown_h):
        return Decision(
            "alert",
            (
                *found,
                tally,
                f"a retraining started at {last_retraining_at:%Y-%m-%d %H:%M} UTC, "
                f"within the cooldown of {policy.cooldown_h:g} hours",
            ),
        )
    return Decision("retrain", (*found, tally))


def _find_separate(checks: Sequence[PastCheck], rows: int, served: int) -> list[PastCheck]:
    """The checks, newest first, with at least `rows` predictions between each and the one after it, or now."""
    separate: list[PastCheck] = []
    later = served
    for check in reversed(checks):
        if later - check.served >= rows:
            separate.append(check)
            later = check.served
    return separate
