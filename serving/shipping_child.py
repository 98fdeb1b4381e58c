"""The child that ships the journal, started again when it ends, and what it says of its work."""

import logging
import os
import subprocess
import sys
import threading

from core.settings import Settings
from serving.journal import Journal
from serving.shipping_process import load_state
from web.health import HealthCheck

logger = logging.getLogger(__name__)

_WATCH_S = 0.5
_RESTART_AFTER_S = 2.0
_STOP_TIMEOUT_S = 10.0


class ShippingChild:
    """Runs `serving.shipping_process` for as long as this process lives, and measures the journal meanwhile."""

    def __init__(self, settings: Settings, database_url: str, journal: Journal) -> None:
        self._root = settings.journal_folder
        # The address holds a password, which everyone could read on a command line.
        self._environment = os.environ | {
            "MILLRACE_HOME": str(settings.home),
            "MILLRACE_LOG_LEVEL": settings.log_level,
            "MILLRACE_LOG_FORMAT": settings.log_format,
            "DATABASE_URL": database_url,
        }
        self._journal = journal
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the child ship what is recorded and end it. The journal is closed by then."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT_S)
        process = self._process
        if process is None:
            return
        _close_input(process)
        if not self._journal.folder.exists():
            # Nothing is left to ship.
            process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid if self._process else None

    def build_checks(self) -> list[HealthCheck]:
        """The journal's health."""
        used = f"{self._journal.used_bytes} of {self._journal.max_bytes} bytes"
        if not self._thread.is_alive():
            return [HealthCheck("journal", "failed", "the thread that watches its shipping has ended")]
        if self._journal.used_bytes >= self._journal.max_bytes:
            return [HealthCheck("journal", "failed", f"full, {used}")]
        state = load_state(self._root)
        if state.outage or state.fault:
            waiting = f"the database is away: {state.outage}" if state.outage else state.fault
            return [HealthCheck("journal", "degraded", f"{used}, waiting: {waiting}")]
        return [HealthCheck("journal", "ok", used)]

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            wait_s = _WATCH_S
            self._journal.measure()
            if self._process is None:
                self._process = self._spawn()
            elif self._process.poll() is not None:
                logger.error("the process that ships the journal ended with %s", self._process.returncode)
                _close_input(self._process)
                self._process = None
                wait_s = _RESTART_AFTER_S

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "serving.shipping_process"]
        return subprocess.Popen(command, env=self._environment, stdin=subprocess.PIPE, start_new_session=True)


def _close_input(process: subprocess.Popen[bytes]) -> None:
    """The end of its input ends the child."""
    if process.stdin is not None:
        process.stdin.close()
