"""Whether the data itself is broken: absent and refused values, unknown categories, volume, freshness, clocks.

Shares are compared as two samples. Rows are faulty with a share that nobody knows, of which the training rows are one
sample and the window another: the number of faulty rows in the window then has the beta-binomial distribution, with
Jeffreys' prior (Gelman et al., "Bayesian Data Analysis", 3rd edition, sections 2.4 and 2.8; the predictive distribution
as in Aitchison and Dunsmore, "Statistical Prediction Analysis", 1975). Values go missing in spells, so both samples
count for as many rows as their dependence leaves (Kish's design effect, 1965). A share must also have grown by
`DriftPolicy.minimum_share`, since a sure difference need not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from scipy import special

from core.policies import DriftPolicy
from core.reference import QUALITY_SHARE, WINDOW_SIZES, Reference
from monitoring.drift import WindowCounts
from monitoring.traffic import Traffic

FEWEST_DAYS = 7
"""Earlier days that must be known before a day's volume is judged."""
VOLUME_FACTOR = 2.0
_MOST_ROWS = 10_000
"""Rows that a share is judged by at most: more would find differences that are too small to matter."""

_WORDS = {
    "not_counted": "had no finite value",
    "imputed": "was absent",
    "unknown": "had an unknown category",
    "absent": "was missing",
    "type": "was of a wrong type",
    "bounds": "was out of bounds",
    "category": "was none of the allowed categories",
    "not_finite": "was not finite",
}


@dataclass(frozen=True)
class QualityCheck:
    """One look at the data.

    `kind` is that of a fault, or `volume`, `served`, `observations`, `clock`; `column` is empty where it is of none.
    `found` and `usual` are shares of rows, or requests a day, or hours. `p_value` is how often unbroken data would
    look as bad, None where a declared limit decides. `sentence` says what is wrong, if something is.
    """

    kind: str
    column: str
    found: float
    usual: float
    p_value: float | None
    is_broken: bool
    sentence: str


@dataclass(frozen=True)
class _Share:
    """Faulty rows of a window and of training, and how many rows their faults remember."""

    kind: str
    column: str
    faulty: int
    rows: int
    usual_faulty: int
    usual_rows: int
    dependence: float = 0.0


def check_quality(
    reference: Reference | None, window: WindowCounts, traffic: Traffic, policy: DriftPolicy
) -> tuple[QualityCheck, ...]:
    """Every check of the data's quality that can be made; those that found something wrong are broken.

    Together they raise a false alarm in at most `QUALITY_SHARE` of the policy's target rate of checks.
    """
    shares = _list_shares(reference, window)
    level = QUALITY_SHARE * policy.target_rate / (len(shares) + 1)
    checks = [_judge_share(share, level, policy) for share in shares]
    volume = _judge_volume(traffic.days, level)
    checks += [volume] if volume is not None else []
    return (*checks, *_judge_freshness(traffic, policy), *_judge_clock(window, traffic, policy))


def _list_shares(reference: Reference | None, window: WindowCounts) -> list[_Share]:
    shares: list[_Share] = []
    features = () if reference is None else reference.features
    # No version is trained on fewer.
    rows_in_training = max((feature.rows for feature in features), default=WINDOW_SIZES[0])
    for feature in features:
        if feature.role == "feature" and window.rows and (counts := window.counts.get(feature.name)) is not None:
            missing = max(window.rows - int(counts.sum()), 0)
            # None at all is told of as a missing feature, by the measure of drift.
            if missing < window.rows:
                shares.append(_Share("not_counted", feature.name, missing, window.rows, 0, feature.rows))
    for rate in () if reference is None else reference.quality:
        faulty = window.faults.get((rate.column, rate.kind), 0)
        if window.rows:
            shares.append(_Share(rate.kind, rate.column, faulty, window.rows, rate.faulty, rate.rows, rate.dependence))
    # Training takes no row that the contract refuses: of its rows none had such a fault.
    requests = window.rows + window.refusals
    for (column, kind), refused in sorted(window.faults.items()):
        if kind in ("absent", "type", "bounds", "category", "not_finite"):
            shares.append(_Share(kind, column, refused, requests, 0, rows_in_training))
    return shares


def _judge_share(share: _Share, level: float, policy: DriftPolicy) -> QualityCheck:
    found = share.faulty / max(share.rows, 1)
    usual = share.usual_faulty / max(share.usual_rows, 1)
    p_value = measure_excess(share.faulty, share.rows, share.usual_faulty, share.usual_rows, share.dependence)
    is_broken = share.rows >= policy.minimum_rows and p_value < level and found - usual >= policy.minimum_share
    what = "requests" if share.kind not in ("not_counted", "imputed", "unknown") else "rows"
    sentence = (
        f"{share.column} {_WORDS[share.kind]} in {share.faulty} of {share.rows} {what} ({found:.1%}), "
        f"in training in {usual:.1%}"
    )
    return QualityCheck(share.kind, share.column, found, usual, p_value, is_broken, sentence if is_broken else "")


def measure_excess(faulty: int, rows: int, usual_faulty: int, usual_rows: int, dependence: float = 0.0) -> float:
    """How often `rows` rows with the share of faults that `usual_rows` rows are a sample of have at least `faulty`."""
    if faulty == 0:
        return 1.0
    effect = 1 + 2 * dependence
    size = max(1, round(min(rows, _MOST_ROWS) / effect))
    successes = np.arange(max(1, round(size * faulty / rows)), size + 1)
    a = usual_faulty / effect + 0.5
    b = (usual_rows - usual_faulty) / effect + 0.5
    ways = special.gammaln(size + 1) - special.gammaln(successes + 1) - special.gammaln(size - successes + 1)
    logarithms = ways + special.betaln(successes + a, size - successes + b) - special.betaln(a, b)
    return float(min(1.0, np.exp(logarithms).sum()))


def _judge_volume(days: Sequence[int], level: float) -> QualityCheck | None:
    """The newest of the days' requests, newest first, beside the earlier ones; None while these are too few.

    Square roots of counts have a deviation of about a half (Bartlett 1936), more where days differ; Student's
    prediction interval counts the earlier days as a sample.
    """
    earlier = np.sqrt(np.asarray(days[1:], dtype=np.float64))
    if len(earlier) < FEWEST_DAYS:
        return None
    newest, usual = float(days[0]), float(np.mean(earlier) ** 2)
    deviation = max(0.5, float(earlier.std(ddof=1))) * np.sqrt(1 + 1 / len(earlier))
    strayed = abs(np.sqrt(newest) - earlier.mean()) / deviation
    p_value = float(2 * special.stdtr(len(earlier) - 1, -strayed))
    is_far = newest * VOLUME_FACTOR < usual or newest > usual * VOLUME_FACTOR
    is_broken = p_value < level and is_far
    sentence = f"the last 24 hours brought {newest:.0f} requests, a day usually brings {usual:.0f}"
    return QualityCheck("volume", "", newest, usual, p_value, is_broken, sentence if is_broken else "")


def _judge_freshness(traffic: Traffic, policy: DriftPolicy) -> list[QualityCheck]:
    limits = (
        ("served", "requests", traffic.served_at, policy.served_within_h),
        ("observations", "observations", traffic.observed_at, policy.observations_within_h),
    )
    checks = []
    for kind, what, last_at, limit_h in limits:
        if limit_h is None or last_at is None:
            continue
        hours = max((traffic.now - last_at) / timedelta(hours=1), 0.0)
        is_broken = hours > limit_h
        sentence = f"no new {what} came for {hours:.0f} hours, {limit_h:g} are allowed" if is_broken else ""
        checks.append(QualityCheck(kind, "", hours, limit_h, None, is_broken, sentence))
    return checks


def _judge_clock(window: WindowCounts, traffic: Traffic, policy: DriftPolicy) -> list[QualityCheck]:
    if not traffic.ahead:
        return []
    share = traffic.ahead / (traffic.ahead + window.rows)
    is_broken = traffic.ahead >= policy.minimum_rows and share >= policy.minimum_share
    sentence = (
        f"{traffic.ahead} predictions carry a time ahead of the database's clock ({share:.1%}): a serving machine's "
        "clock is wrong"
    )
    return [QualityCheck("clock", "", share, 0.0, None, is_broken, sentence if is_broken else "")]
