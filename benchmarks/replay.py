"""A labelled series of real readings, replayed in time order through the check and its policy.

The reference is of the first part of the readings, as `telemetry` monitors them (the last value of a window); the rest
is checked hour by hour with the workload's policy, or another window. Alarms are told in spells of checks that follow
each other, beside the labelled windows.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from core.reference import build_reference, count_bins
from monitoring.drift import WindowCounts, measure_drift
from monitoring.policy import PastCheck, decide
from workloads.catalogue import get_workload

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"
NAME = "last_temperature"
_STEP = timedelta(hours=1)


@dataclass
class Spell:
    """Hourly checks in a row that were not fine; `reason` is that of the first, `retrainings` what they would start."""

    first_at: datetime
    last_at: datetime
    reason: str
    retrainings: int = 0


def replay(readings: Path, share: float, window_h: float | None = None) -> tuple[datetime, list[Spell]]:
    """The end of the first part, and the spells of what the checks after it found."""
    with readings.open() as lines:
        rows = [
            (datetime.fromisoformat(row[0]).replace(tzinfo=UTC), float(row[1]))
            for row in csv.reader(lines)
            if row[0][0].isdigit()
        ]
    # Its clock steps back an hour once: time order is what a store of readings would give.
    rows.sort(key=lambda row: row[0])
    times = np.array([row[0].timestamp() for row in rows])
    values = np.array([[row[1]] for row in rows])
    first = round(share * len(rows))
    policy = get_workload("telemetry").drift
    if window_h is not None:
        policy = replace(policy, window_h=window_h)
    reference = build_reference(values[:first], [NAME], ["degrees"], target_rate=policy.target_rate)
    history: list[PastCheck] = []
    spells: list[Spell] = []
    now = rows[first][0] + _STEP
    while now <= rows[-1][0]:
        begin = now - timedelta(hours=policy.window_h)
        # Served since the version is there: nothing of its own training part.
        start = max(int(np.searchsorted(times, begin.timestamp())), first)
        end = int(np.searchsorted(times, now.timestamp()))
        counts = {NAME: count_bins(reference, values[start:end])[0]}
        measure = measure_drift(reference, WindowCounts(end - start, counts), policy.minimum_effect)
        decision = decide(history, measure, policy, now, served=end - first)
        outcome, served = decision.outcome, end - first
        history = [*history[-400:], PastCheck(now, decision.speaks, outcome, served, decision.open_features)]
        if outcome != "fine":
            if not spells or spells[-1].last_at < now - _STEP:
                spells.append(Spell(now, now, decision.reasons[0]))
            spells[-1].last_at = now
            spells[-1].retrainings += outcome == "retrain"
        now += _STEP
    return rows[first][0], spells


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=Path, default=SHARED_DATA / "machine_temperature.csv")
    parser.add_argument("--windows", type=Path, default=SHARED_DATA / "machine_temperature_windows.json")
    parser.add_argument("--share", type=float, default=0.3, help="of the readings that the reference is of")
    parser.add_argument("--window-h", type=float, help="hours that a check looks at, in place of the policy's")
    options = parser.parse_args(arguments)
    labelled = [
        tuple(datetime.fromisoformat(end).replace(tzinfo=UTC) for end in window)
        for window in json.loads(options.windows.read_text())
    ]
    from_at, spells = replay(options.readings, options.share, options.window_h)
    print(
        f"checked from {from_at:%Y-%m-%d %H:%M}; labelled: "
        + ", ".join(f"{a:%m-%d %H:%M} to {b:%m-%d %H:%M}" for a, b in labelled)
    )
    inside = 0
    for spell in spells:
        is_inside = any(a <= spell.last_at and spell.first_at <= b for a, b in labelled)
        inside += is_inside
        where = "inside " if is_inside else "outside"
        print(
            f"{where} {spell.first_at:%m-%d %H:%M} to {spell.last_at:%m-%d %H:%M}, {spell.retrainings} retrainings: "
            f"{spell.reason}"
        )
    print(f"spells={len(spells)} inside={inside} outside={len(spells) - inside}")


if __name__ == "__main__":
    main()
