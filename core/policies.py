"""What a workload may settle about its own monitoring: plain values, declared in its folder, read by monitoring."""

import math
from dataclasses import dataclass

from core.alerts import SEVERITIES, Channel, Severity
from core.errors import ParameterRejected


@dataclass(frozen=True)
class Limits:
    """What one attempt at a training of the workload may take; None leaves it to the settings.

    `timeout_s` is wall-clock seconds, `memory_max_bytes` the resident memory of all its processes together.
    """

    timeout_s: float | None = None
    memory_max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("timeout_s", "memory_max_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ParameterRejected(name, value, "it must be above 0")


@dataclass(frozen=True)
class DriftPolicy:
    """When a difference between served and training values counts, and when it starts a training.

    Attributes:
        minimum_rows: rows a window must hold before anything is said about it.
        target_rate: share of checks on unchanged data that may raise an alarm, over all features together; the
            version's reference is calibrated to it.
        minimum_effect: smallest shift that matters, in standard deviations of the feature in training.
        minimum_share: smallest share of rows that matters: that moved between categories, were absent, or refused.
        clear_share: share of the threshold and of the smallest shift below which a drift that was found is over.
        confirm_checks: how many of the last `confirm_of` checks must find drift before a training starts; 1 of 1
            starts it at once.
        confirm_of: how many checks, this one included, are looked at for that.
        cooldown_h: hours after a retraining in which none is started.
        window_h: hours of served values that one check looks at.
        served_within_h: hours without a request after which its data counts as broken; without it any number.
        observations_within_h: the same of hours without new observations.

    Raises:
        ParameterRejected: a value is out of its range.
    """

    minimum_rows: int = 100
    target_rate: float = 0.04
    minimum_effect: float = 0.1
    minimum_share: float = 0.05
    clear_share: float = 0.8
    confirm_checks: int = 2
    confirm_of: int = 3
    cooldown_h: float = 24.0
    window_h: float = 168.0
    served_within_h: float | None = None
    observations_within_h: float | None = None

    def __post_init__(self) -> None:
        if self.minimum_rows < 1:
            raise ParameterRejected("minimum_rows", self.minimum_rows, "it must be at least 1")
        if not 0.0 < self.target_rate < 1.0:
            raise ParameterRejected("target_rate", self.target_rate, "it must lie between 0 and 1, both excluded")
        if not (math.isfinite(self.minimum_effect) and self.minimum_effect >= 0.0):
            raise ParameterRejected("minimum_effect", self.minimum_effect, "it must be a number of at least 0")
        for name, share in (("minimum_share", self.minimum_share), ("clear_share", self.clear_share)):
            if not 0.0 < share <= 1.0:
                raise ParameterRejected(name, share, "it must be a share above 0 and of at most 1")
        if self.confirm_checks < 1:
            raise ParameterRejected("confirm_checks", self.confirm_checks, "it must be at least 1")
        if self.confirm_of < self.confirm_checks:
            raise ParameterRejected(
                "confirm_of", self.confirm_of, f"it must be at least confirm_checks, which is {self.confirm_checks}"
            )
        if not (math.isfinite(self.cooldown_h) and self.cooldown_h >= 0.0):
            raise ParameterRejected("cooldown_h", self.cooldown_h, "it must be a number of hours of at least 0")
        if not (math.isfinite(self.window_h) and self.window_h > 0.0):
            raise ParameterRejected("window_h", self.window_h, "it must be a number of hours above 0")
        limits = (("served_within_h", self.served_within_h), ("observations_within_h", self.observations_within_h))
        for name, limit_h in limits:
            if limit_h is not None and not (math.isfinite(limit_h) and limit_h > 0.0):
                raise ParameterRejected(name, limit_h, "it must be a number of hours above 0")


@dataclass(frozen=True)
class AlertPolicy:
    """From which severity on each channel tells of a workload's alerts; None for never.

    Attributes:
        mail: mails to the addresses of the settings and of `mail_to`.
        webhook: signed webhooks.
        slack: messages to Slack, or what takes the same.
        mail_to: who gets this workload's mails beside those of the settings.

    Raises:
        ParameterRejected: a severity that there is none of.
    """

    mail: Severity | None = "warning"
    webhook: Severity | None = "info"
    slack: Severity | None = "warning"
    mail_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mail", "webhook", "slack"):
            value = getattr(self, name)
            if value is not None and value not in SEVERITIES:
                raise ParameterRejected(name, value, f"it must be one of {', '.join(SEVERITIES)}, or None")

    def wants(self, channel: Channel, severity: Severity) -> bool:
        """Whether the channel tells of alerts of that severity."""
        least: Severity | None = getattr(self, channel)
        return least is not None and SEVERITIES.index(severity) >= SEVERITIES.index(least)


@dataclass(frozen=True)
class ProbationPolicy:
    """When a version that took Production is rolled back by the platform, in its first hours there.

    Attributes:
        hours: how long a version is on probation; 0 turns it off.
        most_failures: share of requests that may get no answer for reasons of the version: a value that is not finite,
            a time-out, an internal error. What a client sent wrongly does not count.
        minimum_requests: requests below which nothing is said about that share.
        most_error: realised error, in units of the baseline's on the same rows, that its outcomes may show.
        minimum_outcomes: outcomes below which nothing is said about that error.

    Raises:
        ParameterRejected: a value is out of its range.
    """

    hours: float = 6.0
    most_failures: float = 0.05
    minimum_requests: int = 50
    most_error: float = 1.5
    minimum_outcomes: int = 50

    def __post_init__(self) -> None:
        if not (math.isfinite(self.hours) and self.hours >= 0.0):
            raise ParameterRejected("hours", self.hours, "it must be a number of hours of at least 0")
        if not 0.0 <= self.most_failures < 1.0:
            raise ParameterRejected("most_failures", self.most_failures, "it must be a share from 0 to below 1")
        if not (math.isfinite(self.most_error) and self.most_error > 0.0):
            raise ParameterRejected("most_error", self.most_error, "it must be a number above 0")
        for name in ("minimum_requests", "minimum_outcomes"):
            if getattr(self, name) < 1:
                raise ParameterRejected(name, getattr(self, name), "it must be at least 1")
