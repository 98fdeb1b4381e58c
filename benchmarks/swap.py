"""200 transitions of a model under constant load: failed requests, how fast serving follows, what the swaps cost.

Last line: `swaps= failed= follow_ms_p50= follow_ms_max= p99_ratio=`. A transition is followed when the first answer
names the new version, counted from the moment that `promote` is back, with the stage moved and notified. The load is
four connections, each with a pause of 2 ms after an answer; `p99_ratio` is the p99 while versions are swapped over the
p99 of the same load before and after.
"""

import asyncio
import threading
import time

import numpy as np

from benchmarks.load import Answered, build_body, send_steadily
from benchmarks.platform import START_S, build_rows, running_platform, running_serving, wait_for
from core.connections import Connections
from core.promotion import promote

MODEL = "bench"
SWAPS = 200
PAUSE_S = 0.25
STEADY_S = 10.0
CONNECTIONS = 4


def main() -> None:
    """Measure and print."""
    with running_platform(MODEL, versions=2) as (connections, versions):
        _promote(connections, versions[0])
        with running_serving(connections.settings, connections.database_url) as process:
            wait_for(f"{process.address}/health/ready", process.popen, until="serves", timeout_s=START_S)
            url = f"{process.address}/models/{MODEL}/predict"
            answers, moments, swapping = asyncio.run(_run(connections, versions, url))
    follow_ms = [_find_first(answers, str(version), at_s) for at_s, version in moments]
    during = [answer.took_ms for answer in answers if swapping[0] <= answer.at_s <= swapping[1]]
    steady = [answer.took_ms for answer in answers if not swapping[0] <= answer.at_s <= swapping[1]]
    failed = sum(answer.status != 200 for answer in answers)
    print(f"{len(answers)} answers; p99 steady {np.percentile(steady, 99):.2f} ms, during swaps", end=" ")
    print(f"{np.percentile(during, 99):.2f} ms")
    print(
        f"swaps={len(moments)} failed={failed} follow_ms_p50={np.median(follow_ms):.0f} "
        f"follow_ms_max={max(follow_ms):.0f} p99_ratio={np.percentile(during, 99) / np.percentile(steady, 99):.2f}"
    )


async def _run(
    connections: Connections, versions: list[int], url: str
) -> tuple[list[Answered], list[tuple[float, int]], tuple[float, float]]:
    """The answers, the moment and version of each transition, and when the first began and the last ended."""
    body = build_body(build_rows(1)[0])
    moments: list[tuple[float, int]] = []
    bounds: list[float] = []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def transit() -> None:
        time.sleep(STEADY_S / 2)
        bounds.append(time.monotonic())
        for number in range(1, SWAPS + 1):
            version = versions[number % 2]
            _promote(connections, version)
            moments.append((time.monotonic(), version))
            time.sleep(PAUSE_S)
        bounds.append(time.monotonic())
        time.sleep(STEADY_S / 2)
        loop.call_soon_threadsafe(stop.set)

    thread = threading.Thread(target=transit)
    thread.start()
    answers = await send_steadily(url, body, connections=CONNECTIONS, seconds=3600, pause_s=0.002, stop=stop)
    thread.join()
    return answers, moments, (bounds[0], bounds[1])


def _promote(connections: Connections, version: int) -> None:
    promote(connections.engine, connections.registry, MODEL, version, actor="bench", cause="hand")


def _find_first(answers: list[Answered], version: str, since_s: float) -> float:
    """Milliseconds from `since_s` to the first answer of that version; 0 where it answered before."""
    later = (answer.at_s for answer in answers if answer.version == version and answer.at_s >= since_s)
    return (min(later) - since_s) * 1000


if __name__ == "__main__":
    main()
