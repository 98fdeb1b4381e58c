"""Places where a regular series does not go on by exactly one step."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ingestion.faults import RowFault

SHOWN_GAPS = 5


@dataclass(frozen=True)
class Gap:
    """Between `after_at` and `at` the series misses steps, or `at` stands off its grid; both are rows that are there.

    `entity` is empty where the workload has one series; lines are None for rows that were stored before.
    """

    entity: str
    after_at: datetime
    at: datetime
    after_line: int | None
    line: int | None

    def describe(self) -> str:
        """The place in words."""
        series = f"{self.entity}: " if self.entity else ""
        return f"{series}after {show(self.after_at)} comes {show(self.at)}"

    def to_fault(self, time: str, step: timedelta) -> RowFault:
        """The gap as a fault of the input's row beside it."""
        if self.line is None:
            needed = show(self.at - step)
            rule = f"rows up to {needed} are needed, one step of {show(step)} before the next stored row"
            return RowFault(self.after_line, time, show(self.after_at), rule)
        origin = f"line {self.after_line}" if self.after_line is not None else "the last stored row before"
        rule = f"{show(self.after_at + step)} is needed, one step of {show(step)} after {origin}"
        return RowFault(self.line, time, show(self.at), rule)


@dataclass
class GapReport:
    """How many gaps there are, and the first few."""

    count: int = 0
    first: list[Gap] = field(default_factory=list)

    def add(self, gap: Gap) -> None:
        """Count one gap more."""
        self.count += 1
        if len(self.first) < SHOWN_GAPS:
            self.first.append(gap)


def show(value: object) -> str:
    """A time without the parts that are zero; a step in words."""
    if isinstance(value, datetime):
        text = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return text.removesuffix("T00:00:00Z")
    if isinstance(value, timedelta):
        days = value / timedelta(days=1)
        return f"{days:g} day{'' if days == 1 else 's'}" if days >= 1 else f"{value.total_seconds():g} s"
    return str(value)
