"""Starts a set of processes in order, keeps them running, and stops them all: what `millrace up` stands on."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from core import guard
from core.errors import MillraceError, ProcessNotReady
from core.log_files import load_last_lines, open_log

logger = logging.getLogger(__name__)

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
SETTLED_AFTER_S = 60.0
TICK_S = 0.2
WATCH_EVERY_S = 1.0
PROGRESS_EVERY_S = 5.0
KILL_TIMEOUT_S = 5.0


def build_guarded_command(command: Sequence[str]) -> list[str]:
    """`command` under a guard, which lets nothing of it outlive this process."""
    return [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *command]


@dataclass(frozen=True)
class ProcessSpec:
    """One process to run.

    `env` is its whole environment. `is_ready` is asked again and again until it says yes once; it
    answers within about a second. `start_after` names the processes that must be ready before this one starts, and
    that stop only after it. After SIGTERM it has `stop_timeout_s` seconds before it is killed.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    is_ready: Callable[[], bool]
    log_path: Path
    start_after: tuple[str, ...] = ()
    stop_timeout_s: float = 10.0


class RestartDelay:
    """Seconds to wait before the next restart: doubling from 1 to 30, again from 1 after a life of 60 seconds."""

    def __init__(self) -> None:
        self._next_s = FIRST_DELAY_S

    def after(self, lived_s: float) -> float:
        """The delay to keep after something that lived `lived_s` seconds has ended."""
        delay_s = FIRST_DELAY_S if lived_s >= SETTLED_AFTER_S else self._next_s
        self._next_s = min(delay_s * 2, LONGEST_DELAY_S)
        return delay_s


@dataclass
class _Supervised:
    spec: ProcessSpec
    delay: RestartDelay = field(default_factory=RestartDelay)
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0
    restart_at_s: float = 0.0
    is_ready: bool = False
    kill_at_s: float | None = None


@dataclass
class _Watched:
    watch: Callable[[], object]
    delay: RestartDelay = field(default_factory=RestartDelay)
    fine_since_s: float = 0.0
    next_at_s: float = 0.0


class Supervisor:
    """Runs `specs`, each under a guard (`core.guard`) in a session of its own, so that a Ctrl-C at the terminal reaches
    the supervisor alone and nothing survives it, not even its kill -9.

    `watches` are called once a second, for what is kept running but is no child, such as the embedded database; one
    that raises a MillraceError is logged and called again after the delays of a restart. `progress` receives one
    sentence for whatever a person who waits wants to know. All methods belong to the main thread.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        watches: Sequence[Callable[[], object]] = (),
        progress: Callable[[str], None] = logger.info,
    ) -> None:
        order = TopologicalSorter({spec.name: spec.start_after for spec in specs})
        by_name = {spec.name: spec for spec in specs}
        self._supervised = {name: _Supervised(by_name[name]) for name in order.static_order()}
        self._watched = [_Watched(watch) for watch in watches]
        self._progress = progress

    def start(self, timeout_s: float) -> None:
        """Start every process once those before it are ready, and return when all are ready.

        A process that dies meanwhile is restarted. Raises ProcessNotReady, with the last lines of its log, when one
        is not ready after `timeout_s` seconds; what runs by then goes on running until `stop`.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("processes are started from the main thread: they die with the thread that starts them")
        begun_at_s = told_at_s = time.monotonic()
        while waiting := [one for one in self._supervised.values() if not one.is_ready]:
            for one in waiting:
                if one.process is None and one.restart_at_s == 0 and self._may_start(one):
                    self._launch(one)
            self.tick()
            now_s = time.monotonic()
            if now_s - begun_at_s > timeout_s:
                late = waiting[0]
                raise ProcessNotReady(
                    late.spec.name, timeout_s, str(late.spec.log_path), load_last_lines(late.spec.log_path)
                )
            if now_s - told_at_s > PROGRESS_EVERY_S:
                told_at_s = now_s
                names = ", ".join(one.spec.name for one in waiting if one.process is not None)
                self._progress(f"waiting for {names} ({now_s - begun_at_s:.0f} s)")
            time.sleep(TICK_S)

    def run(self, stopping: threading.Event) -> None:
        """Keep everything running until `stopping` is set; it does not stop anything itself."""
        while not stopping.wait(TICK_S):
            self.tick()

    def tick(self) -> None:
        """Look once after everything: call the watches, restart what has died, note what has become ready."""
        for watched in self._watched:
            self._call(watched)
        for one in self._supervised.values():
            now_s = time.monotonic()
            if one.process is not None and one.process.poll() is not None:
                self._bury(one, now_s)
            elif one.process is None and 0 < one.restart_at_s <= now_s:
                self._launch(one)
            elif one.process is not None and not one.is_ready and one.spec.is_ready():
                one.is_ready = True
                self._progress(f"{one.spec.name} is ready")

    def stop(self) -> None:
        """Stop every process, those that others start after last: SIGTERM, then SIGKILL to all that is left of it."""
        while running := {name for name, one in self._supervised.items() if one.process is not None}:
            for name in running:
                one = self._supervised[name]
                dependents = {other for other in running if name in self._supervised[other].spec.start_after}
                if not dependents:
                    self._stop_step(one)
            time.sleep(TICK_S / 4)
        for one in self._supervised.values():
            one.restart_at_s, one.is_ready = 0.0, False

    def get_pid(self, name: str) -> int | None:
        """Number of the guard process of `name`, None while it does not run."""
        process = self._supervised[name].process
        return None if process is None else process.pid

    def _may_start(self, one: _Supervised) -> bool:
        return all(self._supervised[name].is_ready for name in one.spec.start_after)

    def _launch(self, one: _Supervised) -> None:
        with open_log(one.spec.log_path) as log:
            one.process = subprocess.Popen(
                build_guarded_command(one.spec.command),
                env=dict(one.spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        one.started_at_s = time.monotonic()
        one.restart_at_s = 0.0
        self._progress(f"{one.spec.name} starts")

    def _bury(self, one: _Supervised, now_s: float) -> None:
        process = one.process
        if process is None:
            return
        _kill_group(process.pid)
        delay_s = one.delay.after(now_s - one.started_at_s)
        one.process, one.restart_at_s = None, now_s + delay_s
        logger.warning(
            "%s ended with status %s after %.0f s; it is restarted in %.0f s, its log is %s",
            one.spec.name,
            process.returncode,
            now_s - one.started_at_s,
            delay_s,
            one.spec.log_path,
        )
        self._progress(f"{one.spec.name} ended with status {process.returncode}; restarted in {delay_s:.0f} s")

    def _call(self, watched: _Watched) -> None:
        now_s = time.monotonic()
        if now_s < watched.next_at_s:
            return
        watched.next_at_s = now_s + WATCH_EVERY_S
        try:
            watched.watch()
        except MillraceError as error:
            delay_s = watched.delay.after(now_s - watched.fine_since_s)
            watched.next_at_s = watched.fine_since_s = time.monotonic() + delay_s
            logger.warning("%s Tried again in %.0f s.", error.sentence, delay_s)
            self._progress(error.sentence)

    def _stop_step(self, one: _Supervised) -> None:
        """Take `one` a step further on its way out: ask it, after its time kill it, forget it once it has ended."""
        process, now_s = one.process, time.monotonic()
        if process is None:
            return
        if process.poll() is not None:
            _kill_group(process.pid)
            one.process, one.kill_at_s = None, None
            self._progress(f"{one.spec.name} has stopped")
        elif one.kill_at_s is None:
            process.terminate()
            one.kill_at_s = now_s + one.spec.stop_timeout_s
        elif now_s > one.kill_at_s + KILL_TIMEOUT_S:
            _kill_group(process.pid)
        elif now_s > one.kill_at_s:
            process.send_signal(guard.KILL_ALL)


def _kill_group(leader_pid: int) -> None:
    """Kill what is left of a process group; a group without members is no fault."""
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except ProcessLookupError:
        return
