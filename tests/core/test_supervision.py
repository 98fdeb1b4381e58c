"""The supervisor and its guards, with real processes that really die."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core.errors import EmbeddedDatabaseFailed, ProcessNotReady
from core.log_files import KEPT_LOGS, MAX_LOG_BYTES, open_log
from core.supervision import ProcessSpec, RestartDelay, Supervisor

SLEEPER = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
# Writes its own number, then that of a child in a session of its own, which no signal to the group reaches.
PARENT = """
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path(sys.argv[1] + ".child").write_text(str(child.pid))
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
SUPERVISING = """
import sys, threading
from pathlib import Path
from core.supervision import ProcessSpec, Supervisor
pid_path, program = Path(sys.argv[1]), sys.argv[2]
command = [sys.executable, "-c", program, str(pid_path)]
spec = ProcessSpec("one", command, {}, pid_path.exists, pid_path.with_suffix(".log"))
supervisor = Supervisor([spec])
supervisor.start(timeout_s=30)
print("ready", flush=True)
supervisor.run(threading.Event())
"""


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Program:
    """One supervised program of the tests: writes its process number to a file once it runs."""

    def __init__(self, folder: Path, name: str, program: str = SLEEPER) -> None:
        self.pid_path = folder / name
        self.name = name
        self.program = program
        self.log_path = folder / "logs" / f"{name}.log"

    def spec(self, *start_after: str, stop_timeout_s: float = 10.0) -> ProcessSpec:
        command = [sys.executable, "-c", self.program, str(self.pid_path)]
        return ProcessSpec(self.name, command, {}, self.is_ready, self.log_path, start_after, stop_timeout_s)

    def is_ready(self) -> bool:
        return self.pid_path.exists() and bool(self.pid_path.read_text())

    @property
    def pid(self) -> int:
        return int(self.pid_path.read_text())


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    supervisors: list[Supervisor] = []

    def make(*specs: ProcessSpec, **options: object) -> Supervisor:
        supervisors.append(Supervisor(specs, **options))  # type: ignore[arg-type] # the tests name real options
        return supervisors[-1]

    yield make
    for supervisor in supervisors:
        supervisor.stop()


def tick_until(supervisor: Supervisor, is_so: Callable[[], bool]) -> None:
    def tick() -> bool:
        supervisor.tick()
        return is_so()

    wait_until(tick)


def test_processes_start_in_order_and_stop_in_reverse(tmp_path: Path, supervise: Callable[..., Supervisor]) -> None:
    told: list[str] = []
    first, second = Program(tmp_path, "first"), Program(tmp_path, "second")
    supervisor = supervise(second.spec("first"), first.spec(), progress=told.append)
    supervisor.start(timeout_s=30)
    assert told == ["first starts", "first is ready", "second starts", "second is ready"]
    pids = [first.pid, second.pid]
    assert [os.getsid(pid) == os.getsid(0) for pid in pids] == [False, False]

    supervisor.stop()
    assert told[4:] == ["second has stopped", "first has stopped"]
    assert [is_alive(pid) for pid in pids] == [False, False]
    assert supervisor.get_pid("first") is None


def test_killed_process_is_restarted_and_it_is_logged(
    tmp_path: Path, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = Program(tmp_path, "one"), Program(tmp_path, "other")
    supervisor = supervise(one.spec(), other.spec())
    supervisor.start(timeout_s=30)
    pid, other_pid = one.pid, other.pid
    one.pid_path.unlink()
    os.kill(pid, signal.SIGKILL)
    killed_at_s = time.monotonic()

    tick_until(supervisor, one.is_ready)
    assert time.monotonic() - killed_at_s >= 1.0
    assert one.pid != pid
    assert other.pid == other_pid
    assert is_alive(other_pid)
    assert "one ended with status 137" in caplog.text
    assert "restarted in 1 s" in caplog.text


def test_killed_guard_takes_its_process_along(tmp_path: Path, supervise: Callable[..., Supervisor]) -> None:
    one = Program(tmp_path, "one")
    supervisor = supervise(one.spec())
    supervisor.start(timeout_s=30)
    pid, guard_pid = one.pid, supervisor.get_pid("one")
    assert guard_pid is not None
    os.kill(guard_pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def test_restart_delay_doubles_to_thirty_seconds_and_starts_again_after_a_long_life() -> None:
    delay = RestartDelay()
    assert [delay.after(lived_s=0.5) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [delay.after(lived_s=60), delay.after(lived_s=59)] == [1, 2]


def test_stop_kills_what_ignores_the_request_and_its_descendants(
    tmp_path: Path, supervise: Callable[..., Supervisor]
) -> None:
    stubborn = Program(tmp_path, "stubborn", STUBBORN)
    parent = Program(tmp_path, "parent", PARENT)
    supervisor = supervise(stubborn.spec(stop_timeout_s=0.5), parent.spec())
    supervisor.start(timeout_s=30)
    pids = [stubborn.pid, parent.pid, int((tmp_path / "parent.child").read_text())]
    assert [is_alive(pid) for pid in pids] == [True, True, True]

    begun_at_s = time.monotonic()
    supervisor.stop()
    assert 0.5 <= time.monotonic() - begun_at_s < 5.0
    assert [is_alive(pid) for pid in pids] == [False, False, False]


def test_nothing_survives_a_killed_supervisor(tmp_path: Path) -> None:
    pid_path = tmp_path / "one"
    supervising = subprocess.Popen(
        [sys.executable, "-c", SUPERVISING, str(pid_path), PARENT], stdout=subprocess.PIPE, text=True
    )
    assert supervising.stdout is not None
    assert supervising.stdout.readline() == "ready\n"
    pids = [int(pid_path.read_text()), int((tmp_path / "one.child").read_text())]
    assert [is_alive(pid) for pid in pids] == [True, True]

    supervising.kill()
    supervising.communicate()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_start_that_takes_too_long_names_the_process_and_its_last_words(
    tmp_path: Path, supervise: Callable[..., Supervisor]
) -> None:
    broken = Program(tmp_path, "broken", "raise SystemExit('port 5000 is taken')")
    never = Program(tmp_path, "never")
    with pytest.raises(ProcessNotReady, match=r"process broken was not ready after 2 s.*port 5000 is taken"):
        supervise(never.spec("broken"), broken.spec()).start(timeout_s=2)
    assert not never.pid_path.exists()


def test_command_that_does_not_exist_is_told_in_its_log(tmp_path: Path, supervise: Callable[..., Supervisor]) -> None:
    spec = ProcessSpec("absent", ["/no/such/program"], {}, lambda: False, tmp_path / "absent.log")
    with pytest.raises(ProcessNotReady, match="/no/such/program: No such file or directory"):
        supervise(spec).start(timeout_s=1)


def test_child_gets_its_environment_and_ordinary_signals(tmp_path: Path, supervise: Callable[..., Supervisor]) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "status = Path('/proc/self/status').read_text()\n"
        "Path(sys.argv[1]).write_text(os.environ['COLOUR'] + os.environ['PATH'])\n"
        "print(status, flush=True)\n"
        "import time; time.sleep(600)"
    )
    one = Program(tmp_path, "one", program)
    plain = one.spec()
    spec = ProcessSpec(
        plain.name, plain.command, {"COLOUR": "green", "PATH": os.environ["PATH"]}, plain.is_ready, plain.log_path
    )
    supervise(spec).start(timeout_s=30)
    assert one.pid_path.read_text() == "green" + os.environ["PATH"]
    wait_until(lambda: "SigBlk" in one.log_path.read_text())
    blocked = next(line for line in one.log_path.read_text().splitlines() if line.startswith("SigBlk"))
    assert int(blocked.split()[1], 16) == 0


def test_failing_watch_is_logged_and_called_again(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    called_at_s: list[float] = []

    def watch() -> None:
        called_at_s.append(time.monotonic())
        if len(called_at_s) == 1:
            raise EmbeddedDatabaseFailed("start", "the disk is full", "postgres.log")

    supervisor = supervise(watches=[watch])
    tick_until(supervisor, lambda: len(called_at_s) == 2)
    assert called_at_s[1] - called_at_s[0] >= 1.0
    assert "the disk is full" in caplog.text


def test_run_ends_when_it_is_told_to(tmp_path: Path, supervise: Callable[..., Supervisor]) -> None:
    stopping = threading.Event()
    calls: list[None] = []

    def watch() -> None:
        calls.append(None)
        if len(calls) == 2:
            stopping.set()

    supervise(watches=[watch]).run(stopping)
    assert len(calls) == 2


def test_start_from_another_thread_is_refused(tmp_path: Path, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(Program(tmp_path, "one").spec())
    caught: list[RuntimeError] = []

    def start() -> None:
        try:
            supervisor.start(timeout_s=1)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught)


def test_die_with_parent_ends_a_child_whose_parent_is_killed(tmp_path: Path) -> None:
    pid_path = tmp_path / "child"
    child = f"from core.guard import die_with_parent; import os; die_with_parent(os.getppid())\n{SLEEPER}"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    process = subprocess.Popen([sys.executable, "-c", parent, child, str(pid_path)])
    wait_until(lambda: pid_path.exists() and bool(pid_path.read_text()))
    pid = int(pid_path.read_text())
    assert is_alive(pid)
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(pid))


def test_die_with_parent_exits_at_once_when_the_parent_is_another_one() -> None:
    program = "from core.guard import die_with_parent; die_with_parent(parent_pid=1); print('still here')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_log_is_appended_to_and_moved_aside_when_large(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "one.log"
    for text in (b"first ", b"second"):
        with open_log(path) as log:
            log.write(text)
    assert path.read_bytes() == b"first second"
    for number in range(KEPT_LOGS + 2):
        path.write_bytes(b"%d" % number + b"x" * MAX_LOG_BYTES)
        open_log(path).close()
    assert path.read_bytes() == b""
    kept = {old.name: old.read_bytes()[:1] for old in path.parent.glob("one.log.*")}
    assert kept == {"one.log.1": b"4", "one.log.2": b"3", "one.log.3": b"2"}
