"""What Prometheus reads of a serving process, at `/metrics`, under the names that its users know from elsewhere.

With one worker the numbers are in memory. With several, PROMETHEUS_MULTIPROC_DIR is set before the client is loaded,
every worker keeps its numbers in files there, and whichever is asked answers for all of them.
"""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST

_REQUEST_BUCKETS = (0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
_LOAD_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counts and times of one process. `model` is empty for requests that are about none."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("http_requests", "Requests answered", ["model", "status"], registry=self._registry)
        self._durations = Histogram(
            "http_request_duration_seconds",
            "Time from the first byte of a request to the end of its answer",
            ["model"],
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._errors = Counter(
            "http_request_errors", "Requests refused or failed, by problem", ["model", "kind"], registry=self._registry
        )
        self.in_progress = Gauge(
            "http_requests_in_progress",
            "Predictions that are being read or computed",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._versions = Gauge(
            "millrace_model_version_info",
            "1 for the version that serves, 0 for one that did",
            ["model", "version"],
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._loads = Histogram(
            "millrace_version_load_seconds",
            "Time to read, verify and warm a version",
            ["model"],
            buckets=_LOAD_BUCKETS,
            registry=self._registry,
        )
        self._swaps = Histogram(
            "millrace_version_swap_seconds",
            "Time from the first look that saw a new version to its first request",
            ["model"],
            buckets=_LOAD_BUCKETS,
            registry=self._registry,
        )
        self._backlog = Gauge(
            "millrace_journal_backlog_bytes",
            "Bytes of the prediction journal on this machine that are not in the database yet",
            registry=self._registry,
            multiprocess_mode="livemostrecent",
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def observe_request(self, model: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (model, status)
        children = self._children.get(key)
        if children is None:
            # Looking a label up takes as long as counting does.
            children = (self._requests.labels(model, str(status)), self._durations.labels(model))
            self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)

    def count_error(self, model: str, kind: str) -> None:
        """Count one request that was refused or failed; `kind` is the problem's name."""
        self._errors.labels(model, kind).inc()

    def observe_load(self, model: str, seconds: float) -> None:
        self._loads.labels(model).observe(seconds)

    def observe_swap(self, model: str, version: int, previous: int | None, seconds: float) -> None:
        """A version serves from now on, in the place of `previous`."""
        self._swaps.labels(model).observe(seconds)
        if previous is not None:
            self._versions.labels(model, str(previous)).set(0)
        self._versions.labels(model, str(version)).set(1)

    def note_cleared(self, model: str, version: int) -> None:
        """The version serves no longer, and none does in its place."""
        self._versions.labels(model, str(version)).set(0)

    def set_backlog(self, used_bytes: int) -> None:
        self._backlog.set(used_bytes)

    def render(self) -> bytes:
        """The text that Prometheus reads, of all workers."""
        if MULTIPROCESS_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        _forget_dead(Path(os.environ[MULTIPROCESS_VARIABLE]))
        merged = CollectorRegistry()
        MultiProcessCollector(merged)  # type: ignore[no-untyped-call]  # the client carries no types there
        return generate_latest(merged)


def _forget_dead(folder: Path) -> None:
    """Drop what processes that died said of their own state; their counts stay."""
    for path in folder.glob("gauge_live*_*.db"):
        if not Path("/proc", path.stem.rpartition("_")[2]).exists():
            path.unlink(missing_ok=True)


def prepare_multiprocess(folder: Path) -> None:
    """Have the workers that are started from now on share their numbers in `folder`, which is emptied."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.db"):
        path.unlink()
    os.environ[MULTIPROCESS_VARIABLE] = str(folder)
