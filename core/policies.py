"""What a workload may settle about its own monitoring: plain values, declared in its folder, read by monitoring."""

import math
from dataclasses import dataclass

from core.errors import ParameterRejected


@dataclass(frozen=True)
class DriftPolicy:
    """When a difference between served and training values counts, and when it starts a training.

    Attributes:
        minimum_rows: rows a window must hold before anything is said about it.
        target_rate: share of checks on unchanged data that may raise an alarm, over all features together; the
            version's reference is calibrated to it.
        minimum_effect: smallest shift that matters, in standard deviations of the feature in training.
        confirm_checks: how many of the last `confirm_of` checks must find drift before a training starts; 1 of 1
            starts it at once.
        confirm_of: how many checks, this one included, are looked at for that.
        cooldown_h: hours after a retraining in which none is started.
        window_h: hours of served values that one check looks at.

    Raises:
        ParameterRejected: a value is out of its range.
    """

    minimum_rows: int = 100
    target_rate: float = 0.04
    minimum_effect: float = 0.1
    confirm_checks: int = 2
    confirm_of: int = 3
    cooldown_h: float = 24.0
    window_h: float = 168.0

    def __post_init__(self) -> None:
        if self.minimum_rows < 1:
            raise ParameterRejected("minimum_rows", self.minimum_rows, "it must be at least 1")
        if not 0.0 < self.target_rate < 1.0:
            raise ParameterRejected("target_rate", self.target_rate, "it must lie between 0 and 1, both excluded")
        if not (math.isfinite(self.minimum_effect) and self.minimum_effect >= 0.0):
            raise ParameterRejected("minimum_effect", self.minimum_effect, "it must be a number of at least 0")
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
