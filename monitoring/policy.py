"""What follows from a check: the one place that turns what was measured into an outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from core.findings import Outcome
from core.policies import DriftPolicy
from monitoring.drift import DriftMeasure, FeatureDrift
from monitoring.quality import QualityCheck


@dataclass(frozen=True)
class PastCheck:
    """What an earlier check of the same version found.

    `checked_at` is UTC; `served` is how many predictions the version had answered by then. `speaks` says that it spoke
    for a retraining, by drift that realised errors did not contradict or by realised errors; `open_features` had
    drifted and had not cleared. `is_met` says that a retraining it asked for was under way already, `is_tentative` that
    nothing followed from it (see `Decision`).
    """

    checked_at: datetime
    speaks: bool
    outcome: Outcome
    served: int
    open_features: tuple[str, ...] = ()
    is_met: bool = False
    is_tentative: bool = False


@dataclass(frozen=True)
class Realised:
    """What outcomes say of the version: its error on predictions whose true values are known.

    `verdict` is against the error that its own evaluation promised: `better` or `worse` where the interval from `low`
    to `high`, of the realised error, excludes `expected`, else `same`. All errors are of `metric`; `rows` predictions
    were joined with their outcomes.
    """

    verdict: Literal["better", "same", "worse"]
    metric: str
    rows: int
    error: float
    expected: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        return (
            f"the realised {self.metric} of {self.rows} outcomes is {self.error:.4g} ({self.low:.4g} to "
            f"{self.high:.4g}), {self.verdict} than the {self.expected:.4g} of its evaluation".replace(
                "same than the", "the same as the"
            )
        )


@dataclass(frozen=True)
class Decision:
    """The outcome of a check and the sentences that led to it, most telling first.

    `speaks` and `open_features` are what later checks have to know (see `PastCheck`). `is_tentative` says that nothing
    follows from an alert so far: drift that is not confirmed, that outcomes contradict, or that is about to clear.
    `is_judged` is false where there was too little to say anything.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    speaks: bool = False
    open_features: tuple[str, ...] = ()
    is_tentative: bool = False
    is_judged: bool = True


def decide(
    history: Sequence[PastCheck],
    measure: DriftMeasure,
    policy: DriftPolicy,
    now: datetime,
    *,
    served: int,
    quality: Sequence[QualityCheck] = (),
    realised: Realised | None = None,
) -> Decision:
    """Judges one check in the light of earlier ones, in any order; `served` is the version's predictions so far.

    Asked in this order, the first that applies decides:

    1. Is the data itself broken (a feature without values, a quality check, most requests refused)? A data incident: a
       model that is trained on broken data is worse than the one in place.
    2. Is the realised error worse than promised? That speaks for a retraining, whatever drift says.
    3. Is there a reference, and are there enough rows to say anything? If not, that is said.
    4. Did anything drift, by its calibrated threshold and by its effect? If not, all is fine, unless what drifted
       before is still above the lower level at which it clears.
    5. Is the realised error as promised, or better? Then the drift does no harm: people are told, and no more.
    6. Did enough of the last checks speak for a retraining? If not, people are told.
    7. Was a retraining started within the cooldown? If so, the same.

    What is left asks for a retraining. Checks before the last retraining confirm nothing, and neither does one after
    which fewer than `minimum_rows` predictions came: it saw the same rows. A retraining that met one under way is none.
    """
    open_before = _find_open(history)
    lingering = tuple(feature.name for feature in measure.features if feature.name in open_before and feature.is_open)
    is_judged = measure.is_conclusive and measure.rows >= policy.minimum_rows and not measure.fault
    drifted = measure.drifted if is_judged else ()
    still_open = tuple(dict.fromkeys((*(feature.name for feature in drifted), *(lingering if is_judged else ()))))

    broken = _find_broken(measure, policy, quality)
    if broken:
        return Decision("data_incident", broken, open_features=open_before)
    if realised is None or realised.verdict != "worse":
        if measure.fault:
            return Decision("alert", (measure.fault,))
        if not is_judged:
            reason = f"{measure.rows} rows are too few to judge"
            return Decision("fine", (reason,), open_features=open_before, is_judged=False)
        if not drifted and not lingering:
            return Decision("fine", (f"nothing drifted over {measure.rows} rows",))
        if not drifted:
            reason = f"{', '.join(lingering)} drifted before and is not below {policy.clear_share:.0%} of its threshold"
            return Decision("alert", (reason,), open_features=still_open, is_tentative=True)
    found = tuple(_describe(feature) for feature in drifted)
    if realised is not None:
        found = (realised.sentence, *found) if realised.verdict == "worse" else (*found, realised.sentence)
        if realised.verdict != "worse":
            reason = "outcomes show that the drift does no harm, so nothing is retrained"
            return Decision("alert", (*found, reason), open_features=still_open, is_tentative=True)

    started = [check.checked_at for check in history if check.outcome == "retrain" and not check.is_met]
    last_started_at = max(started, default=None)
    recent = sorted(
        (check for check in history if last_started_at is None or check.checked_at > last_started_at),
        key=lambda check: check.checked_at,
    )
    looked_at = _find_separate(recent, policy.minimum_rows, served)[: policy.confirm_of - 1]
    confirming = 1 + sum(check.speaks and check.outcome != "data_incident" for check in looked_at)
    tally = (
        f"{confirming} of the last {policy.confirm_of} checks speak for a retraining, {policy.confirm_checks} are "
        f"asked for (checks with at least {policy.minimum_rows} predictions between them)"
    )
    if confirming < policy.confirm_checks:
        return Decision("alert", (*found, tally), speaks=True, open_features=still_open, is_tentative=True)
    # Either way: a clock that was far ahead must not stop retrainings until its time has come.
    if last_started_at is not None and abs(now - last_started_at) < timedelta(hours=policy.cooldown_h):
        cooling = (
            f"a retraining started at {last_started_at:%Y-%m-%d %H:%M} UTC, "
            f"within the cooldown of {policy.cooldown_h:g} hours"
        )
        return Decision("alert", (*found, tally, cooling), speaks=True, open_features=still_open)
    return Decision("retrain", (*found, tally), speaks=True, open_features=still_open)


def _find_broken(measure: DriftMeasure, policy: DriftPolicy, quality: Sequence[QualityCheck]) -> tuple[str, ...]:
    reasons = []
    if measure.missing:
        reasons.append(f"no values to judge for {', '.join(measure.missing)}, although there were {measure.rows} rows")
    reasons += [check.sentence for check in quality if check.is_broken]
    if measure.refusals > measure.rows and measure.refusals >= policy.minimum_rows:
        reasons.append(f"{measure.refusals} requests were refused and only {measure.rows} answered")
    return (*reasons, "broken data is repaired, not learned") if reasons else ()


def _find_open(history: Sequence[PastCheck]) -> tuple[str, ...]:
    """What had drifted and not cleared at the newest check."""
    newest = max(history, key=lambda check: check.checked_at, default=None)
    return () if newest is None else newest.open_features


def _describe(feature: FeatureDrift) -> str:
    what = "moved to other categories: share" if feature.is_category else "effect"
    unit = "" if feature.is_category else " standard deviations"
    moments = ""
    if feature.mean is not None and feature.sd is not None:
        moments = (
            f", mean {feature.usual_mean:.4g} to {feature.mean:.4g}, deviation {feature.usual_sd:.4g} to "
            f"{feature.sd:.4g}"
        )
    return (
        f"{feature.name} drifted: distance {feature.statistic:.3f} above its threshold {feature.threshold:.3f}, "
        f"{what} {feature.effect:.2f}{unit}{moments}"
    )


def _find_separate(checks: Sequence[PastCheck], rows: int, served: int) -> list[PastCheck]:
    """The checks, newest first, with at least `rows` predictions between each and the one after it, or now."""
    separate: list[PastCheck] = []
    later = served
    for check in reversed(checks):
        if later - check.served >= rows:
            separate.append(check)
            later = check.served
    return separate
