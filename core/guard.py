"""Runs one command and lets nothing of it outlive the process that asked for it.

`python -I -S core/guard.py PARENT_PID COMMAND…` stands between a supervisor and the command. The kernel tells the
guard when its parent dies (PR_SET_PDEATHSIG) and hands it every orphan among its descendants, also one that moved to a
session of its own (PR_SET_CHILD_SUBREAPER); the guard kills what is left and exits. A PDEATHSIG on the command itself
would miss the command's own children, such as the server process under `mlflow server`.

The module uses the standard library alone, so that it can be run by path, in isolation and within milliseconds. A
process of its own, instead of `preexec_fn`, because Python code between fork and exec can deadlock in a program with
threads.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_ALL = signal.SIGUSR1
"""Sent to the guard: kill the command and all its descendants at once."""
COMMAND_NOT_FOUND = 127
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, KILL_ALL)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process (SIGKILL) as soon as its parent dies.

    Exits at once with status 1 if the parent is gone already, that is if the parent is not `parent_pid`. Process
    number 1 is no sign of that: in a container it is the supervisor itself. The kernel means the *thread* that forked
    this process: a parent starts such children from a thread that lives as long as it does. On systems without prctl
    (macOS) the kernel cannot be asked and only the check is made.
    """
    _signal_at_parent_death(signal.SIGKILL)
    if _is_orphan(parent_pid):
        os._exit(1)


def _signal_at_parent_death(number: signal.Signals) -> None:
    _prctl(PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _is_orphan(parent_pid: int) -> bool:
    return os.getppid() != parent_pid


def _run_guarded(parent_pid: int, command: list[str]) -> int:
    """Run `command`, pass SIGTERM, SIGINT and SIGHUP on to it, and return its exit status, 128 + signal if killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _signal_at_parent_death(KILL_ALL)
    if _is_orphan(parent_pid):
        return 1
    guard_pid = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, guard_pid)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    def kill_child(_number: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)

    for number in HANDLED:
        signal.signal(number, kill_child if number == KILL_ALL else pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    while True:
        # The child stays unreaped while the handlers may still signal its number.
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if info is not None and info.si_pid == child:
            break
        if info is not None:
            os.waitpid(info.si_pid, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    _, status = os.waitpid(child, 0)
    _kill_descendants()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(command: list[str], guard_pid: int) -> None:
    try:
        die_with_parent(guard_pid)
        # Python ignores these two, and a command inherits what is ignored.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(COMMAND_NOT_FOUND)


def _kill_descendants() -> None:
    """Kill the orphans that the kernel handed over, then theirs, until there is none."""
    while True:
        for pid in _find_children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _find_children() -> list[int]:
    """Numbers of this process's own children; none are found without /proc, where no orphan is handed over either."""
    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            children.append(int(status.parent.name))
    return children


if __name__ == "__main__":
    sys.exit(_run_guarded(int(sys.argv[1]), sys.argv[2:]))
